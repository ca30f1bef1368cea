"""Time-based one-time passwords (RFC 6238): seeds encrypted at rest (R9), one use for each step."""

import base64
import hmac
import secrets
from datetime import datetime

import pyotp
from cryptography.exceptions import InvalidTag

from services.authn.adapters.signing_keys import KeyEncryptionKey
from services.authn.model import Secret
from services.common.log import get_logger

PERIOD = 30
"""Seconds of a step."""

DRIFT = 1
"""Steps by which a device's clock may differ."""

SEED_BYTES = 20
RECOVERY_CODES = 10
_PURPOSE = "totp"

log = get_logger("totp")


class Totp:
    """Second factors. It remembers nothing: which steps are used up lies in the store."""

    def __init__(self, kek: KeyEncryptionKey) -> None:
        self._kek = kek

    def make(self, user: str) -> tuple[bytes, Secret]:
        """A new seed: sealed for the user's record, and as otpauth:// URI to be shown once."""
        seed = secrets.token_bytes(SEED_BYTES)
        uri = pyotp.TOTP(_base32(seed)).provisioning_uri(name=user, issuer_name="kubegate")
        return self._kek.seal(user, _PURPOSE, seed), Secret(uri)

    def make_recovery_codes(self) -> list[Secret]:
        """Codes of 80 bits in base32, for people to write down."""
        return [Secret("-".join(_grouped(_base32(secrets.token_bytes(10))))) for _ in range(RECOVERY_CODES)]

    def step(self, user: str, sealed: bytes, code: str, now: datetime) -> int | None:
        """The step whose code this is, within the drift; ``None`` where it is none's."""
        try:
            seed = self._kek.open(user, _PURPOSE, sealed)
        except InvalidTag:
            log.error("seed does not open under kek_file", user=user)
            return None
        hotp = pyotp.HOTP(_base32(seed))
        current = int(now.timestamp()) // PERIOD
        found = None
        for step in range(current - DRIFT, current + DRIFT + 1):
            if hmac.compare_digest(hotp.at(step).encode(), code.encode("utf-8", "surrogatepass")):
                found = step
        return found


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode()


def _grouped(text: str) -> list[str]:
    return [text[start : start + 4] for start in range(0, len(text), 4)]
