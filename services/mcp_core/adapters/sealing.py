"""Seals confirmations: Fernet of cryptography, under keys that all replicas of the core read from one file."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from services.common.config import ConfigError, read_secret

KEY_BYTES = 32


class FernetSealer:
    """The Sealer port. Text that decodes to the same bytes as a token but is not that token is refused."""

    def __init__(self, path: Path) -> None:
        """``path``: one base64 key of 32 bytes a line. The first seals, all open: a new one is put first, and the old
        one goes when what it sealed has expired.

        Raises:
            ConfigError: it cannot be read, others may read it, or a line is no such key.
        """
        self._fernet = MultiFernet([Fernet(_urlsafe(path, line)) for line in read_secret(path).splitlines()])

    def seal(self, content: bytes) -> str:
        """The content, unreadable and unalterable."""
        return self._fernet.encrypt(content).decode()

    def open(self, token: str) -> bytes | None:
        """The content, or None for whatever was not sealed here or was altered since."""
        try:
            raw = base64.urlsafe_b64decode(token)
            # The decoder passes over what is no base64, and over bits that no byte needs.
            if base64.urlsafe_b64encode(raw).decode() != token:
                return None
            return self._fernet.decrypt(token)
        except (InvalidToken, ValueError):
            return None


def _urlsafe(path: Path, line: bytes) -> bytes:
    try:
        key = base64.b64decode(line.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(path, ["each line must be a base64 key of 32 bytes; `openssl rand -base64 32` makes one"])
    return base64.urlsafe_b64encode(key)
