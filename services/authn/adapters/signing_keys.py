"""Ed25519 signing keys, encrypted at rest with AES-256-GCM under a key from a file (R9).

Access tokens and principal tokens have keys of their own (R5). The algorithm is part of the key, never taken
from a token.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.common.runtime_errors import StartupError

ALGORITHM = "EdDSA"
_NONCE = 12


class Purpose(StrEnum):
    """What a key signs."""

    ACCESS = "access"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A signing key as the store keeps it. ``sealed`` is nonce and ciphertext."""

    kid: str
    purpose: Purpose
    created_at: datetime
    kek_version: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A usable signing key. ``kid`` is its RFC 7638 thumbprint."""

    kid: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> Ed25519PublicKey:
        return self.private.public_key()


class KeyEncryptionKey:
    """Seals private keys. Derived (HKDF, RFC 5869) from the file's contents, whatever their form."""

    def __init__(self, material: bytes) -> None:
        derived = HKDF(SHA256(), 32, salt=None, info=b"kubegate authn key encryption").derive(material)
        self._cipher = AESGCM(derived)
        self.version = hashlib.sha256(b"kubegate kek version" + derived).hexdigest()[:12]

    def seal(self, kid: str, purpose: Purpose, secret: bytes) -> bytes:
        """Encrypts, bound to the key's id and purpose, so that rows cannot be exchanged."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, _bound(kid, purpose))

    def open(self, kid: str, purpose: Purpose, sealed: bytes) -> bytes:
        """Decrypts.

        Raises:
            InvalidTag: it was sealed under another key, for another id, or altered.
        """
        return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(kid, purpose))


def _bound(kid: str, purpose: Purpose) -> bytes:
    return f"{purpose}:{kid}".encode()


class SealedKeys(Protocol):
    """Where sealed keys lie."""

    def signing_keys(self) -> Iterable[SealedKey]: ...

    def add_signing_key(self, key: SealedKey) -> None: ...


class KeyRing:
    """The keys of one purpose: the newest signs, all of them verify."""

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        ordered = tuple(keys)
        self.current = ordered[-1]
        self._public: Mapping[str, Ed25519PublicKey] = {key.kid: key.public for key in ordered}
        self.jwks = json.dumps({"keys": [jwk(key) for key in self._public.values()]}, sort_keys=True)
        """The public keys as a JWK set (RFC 7517, RFC 8037)."""

    def public(self, kid: str) -> Ed25519PublicKey | None:
        """The public key of that id, if it is one of these."""
        return self._public.get(kid)

    async def find(self, key_id: str) -> Ed25519PublicKey | None:
        """``public``, as verifiers of principal tokens ask."""
        return self.public(key_id)


def open_ring(store: SealedKeys, kek: KeyEncryptionKey, purpose: Purpose, now: datetime) -> KeyRing:
    """The stored keys of a purpose; makes the first one where there is none.

    Raises:
        StartupError: a stored key does not open under this key-encryption key.
    """
    sealed = [key for key in store.signing_keys() if key.purpose is purpose]
    if not sealed:
        private = Ed25519PrivateKey.generate()
        kid = jwk(private.public_key())["kid"]
        store.add_signing_key(
            SealedKey(kid, purpose, now, kek.version, kek.seal(kid, purpose, private.private_bytes_raw()))
        )
        return KeyRing([SigningKey(kid, private)])
    try:
        return KeyRing(
            SigningKey(key.kid, Ed25519PrivateKey.from_private_bytes(kek.open(key.kid, purpose, key.sealed)))
            for key in sorted(sealed, key=lambda key: key.created_at)
        )
    except (InvalidTag, ValueError) as error:
        raise StartupError(
            "the signing keys in the store do not open under the key in kek_file: it is another file than "
            "the one they were made under, or the store was altered; restore the kek_file that belongs to it"
        ) from error


def jwk(public: Ed25519PublicKey) -> dict[str, Any]:
    """A public key as a JWK (RFC 8037) with its thumbprint (RFC 7638) as ``kid``."""
    required = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(public.public_bytes_raw())}
    thumbprint = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode())
    return {**required, "alg": ALGORITHM, "use": "sig", "kid": _base64url(thumbprint.digest())}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
