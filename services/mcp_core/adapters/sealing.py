"""What passes through a client's hands is sealed under keys that all replicas of the core read from one file.

Each line of the file gives a key for each purpose (RFC 5869), so that nothing sealed for one opens for another.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from services.common.config import ConfigError, read_secret

KEY_BYTES = 32


class SealingKeys:
    """The lines of the file. The first seals, all open: a new one is put first, and the old one goes when what it
    sealed has expired."""

    def __init__(self, path: Path) -> None:
        """``path``: one base64 key of 32 bytes a line.

        Raises:
            ConfigError: it cannot be read, others may read it, or a line is no such key.
        """
        self._keys = [_key(path, line) for line in read_secret(path).splitlines()]

    def derived(self, purpose: str) -> list[bytes]:
        """A key of 32 bytes for each line, for one purpose only."""
        return [HKDFExpand(SHA256(), KEY_BYTES, f"kubegate {purpose}".encode()).derive(key) for key in self._keys]


class FernetSealer:
    """The Sealer port. Text that decodes to the same bytes as a token but is not that token is refused."""

    def __init__(self, keys: SealingKeys) -> None:
        derived = keys.derived("confirmations and sessions")
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])

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


def _key(path: Path, line: bytes) -> bytes:
    try:
        key = base64.b64decode(line.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(path, ["each line must be a base64 key of 32 bytes; `openssl rand -base64 32` makes one"])
    return key
