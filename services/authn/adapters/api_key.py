"""API keys ``kg_<id>_<secret>``: found by id, stored as HMAC-SHA-256 (RFC 2104) under the server's pepper.

The secret has 256 bits, so that a fast MAC is enough. An unknown id costs the work of a known one: the MAC is
computed and compared with that of no key.
"""

import hashlib
import hmac
import re
import secrets
import string
from datetime import datetime

from services.authn.errors import Reason, Rejected
from services.authn.model import KEY_PREFIX, ApiKey, Credential, Principal, Secret, TokenCredential
from services.authn.ports import ApiKeys

AUTH_TYPE = "api_key"
ALPHABET = string.digits + string.ascii_letters
ID_LENGTH = 12
SECRET_LENGTH = 43
PASSWORD_LENGTH = 24

_FORM = re.compile(rf"kg_([0-9A-Za-z]{{{ID_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}})")
_NO_MAC = bytes(hashlib.sha256().digest_size)


class Pepper:
    """The key of the MACs. ``version`` names it and reveals nothing; a store knows its pepper by it (R9)."""

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.version = hmac.digest(value, b"kubegate api key pepper version", "sha256").hex()[:12]

    def mac(self, key_id: str, secret: str) -> bytes:
        """The MAC of a secret, bound to its id, so that rows cannot be exchanged."""
        return hmac.digest(self._value, f"{key_id}_{secret}".encode(), "sha256")


class ApiKeyMaker:
    """Makes keys with the system's random numbers."""

    def __init__(self, pepper: Pepper) -> None:
        self._pepper = pepper

    def make(self) -> tuple[str, Secret, bytes, str]:
        key_id, secret = random_base62(ID_LENGTH), random_base62(SECRET_LENGTH)
        return (
            key_id,
            Secret(f"{KEY_PREFIX}{key_id}_{secret}"),
            self._pepper.mac(key_id, secret),
            self._pepper.version,
        )

    def make_password(self) -> Secret:
        return Secret(random_base62(PASSWORD_LENGTH))


def random_base62(length: int) -> str:
    """Unpredictable base62 text of that length."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


class ApiKeyAuthenticator:
    """Judges API keys."""

    auth_type = AUTH_TYPE

    def __init__(self, keys: ApiKeys, pepper: Pepper) -> None:
        self._keys = keys
        self._pepper = pepper

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, TokenCredential) and credential.token.reveal().startswith(KEY_PREFIX)

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        form = _FORM.fullmatch(credential.token.reveal()) if isinstance(credential, TokenCredential) else None
        if form is None:
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        key_id, secret = form.groups()
        key = self._keys.find(key_id)
        matches = hmac.compare_digest(self._pepper.mac(key_id, secret), key.mac if key else _NO_MAC)
        if key is None:
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        if not matches:
            raise Rejected(Reason.MISMATCH, AUTH_TYPE, credential_id=key.id)
        certificate = credential.certificate if isinstance(credential, TokenCredential) else b""
        check_usable(key, certificate, now, AUTH_TYPE)
        self._keys.touch(key.id, now)
        return key.principal(now)


def check_usable(key: ApiKey, certificate: bytes, now: datetime, auth_type: str) -> None:
    """Whether what a key stands for is accepted now, with the client certificate (DER) that came along.

    Raises:
        Rejected: it is disabled or expired, or bound to another certificate.
    """
    if not key.enabled:
        raise Rejected(Reason.DISABLED, auth_type, credential_id=key.id, user=key.identity)
    if key.expires_at is not None and key.expires_at <= now:
        raise Rejected(Reason.EXPIRED, auth_type, credential_id=key.id, user=key.identity)
    if key.certificate_sha256 and not hmac.compare_digest(
        key.certificate_sha256, hashlib.sha256(certificate).hexdigest()
    ):
        raise Rejected(Reason.CERTIFICATE, auth_type, credential_id=key.id, user=key.identity)
