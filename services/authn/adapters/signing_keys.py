"""Signing keys, encrypted at rest with AES-256-GCM under a key from a file (R9).

Access tokens and principal tokens have keys of their own (R5). The algorithm is part of the key, never taken
from a token: Ed25519 (RFC 8037) unless the configuration asks for ES256 or RS256 (RFC 7518).
"""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ALGORITHM = "EdDSA"
"""What signs principal tokens always, and access tokens unless another one is configured."""

RSA_BITS = 3072
_NONCE = 12

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Purpose(StrEnum):
    """What a key signs."""

    ACCESS = "access"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A signing key as the store keeps it. ``sealed`` is nonce and ciphertext; it signs from ``active_from``."""

    kid: str
    purpose: Purpose
    created_at: datetime
    kek_version: str
    sealed: bytes = field(repr=False)
    active_from: datetime
    algorithm: str = ALGORITHM


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A usable signing key. ``kid`` is its RFC 7638 thumbprint."""

    kid: str
    private: Any = field(repr=False)
    algorithm: str = ALGORITHM

    @property
    def public(self) -> Any:
        return self.private.public_key()


class KeyEncryptionKey:
    """Seals secrets. Derived (HKDF, RFC 5869) from the file's contents, whatever their form."""

    def __init__(self, material: bytes) -> None:
        derived = HKDF(SHA256(), 32, salt=None, info=b"kubegate authn key encryption").derive(material)
        self._cipher = AESGCM(derived)
        self.version = hashlib.sha256(b"kubegate kek version" + derived).hexdigest()[:12]

    def seal(self, name: str, purpose: str, secret: bytes) -> bytes:
        """Encrypts, bound to the owner's name and the purpose, so that rows cannot be exchanged."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, _bound(name, purpose))

    def open(self, name: str, purpose: str, sealed: bytes) -> bytes:
        """Decrypts.

        Raises:
            InvalidTag: it was sealed under another key, for another owner, or altered.
        """
        return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(name, purpose))


def _bound(name: str, purpose: str) -> bytes:
    return f"{purpose}:{name}".encode()


def generate(algorithm: str) -> SigningKey:
    """A new key."""
    private: PrivateKey
    match algorithm:
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "RS256":
            private = rsa.generate_private_key(65537, RSA_BITS)
        case _:
            private = Ed25519PrivateKey.generate()
    return SigningKey(jwk(private.public_key(), algorithm)["kid"], private, algorithm)


def sealed(
    key: SigningKey, kek: KeyEncryptionKey, purpose: Purpose, created_at: datetime, active_from: datetime
) -> SealedKey:
    """A key as the store keeps it."""
    if isinstance(key.private, Ed25519PrivateKey):
        raw = key.private.private_bytes_raw()
    else:
        raw = key.private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return SealedKey(
        key.kid, purpose, created_at, kek.version, kek.seal(key.kid, purpose, raw), active_from, key.algorithm
    )


def opened(key: SealedKey, kek: KeyEncryptionKey) -> SigningKey:
    """A key as it is used.

    Raises:
        InvalidTag, ValueError: it does not open under this key-encryption key, or is none.
    """
    raw = kek.open(key.kid, key.purpose, key.sealed)
    if key.algorithm == ALGORITHM:
        return SigningKey(key.kid, Ed25519PrivateKey.from_private_bytes(raw))
    return SigningKey(key.kid, serialization.load_der_private_key(raw, None), key.algorithm)


_TO_JWK: dict[str, Any] = {"EdDSA": OKPAlgorithm.to_jwk, "ES256": ECAlgorithm.to_jwk, "RS256": RSAAlgorithm.to_jwk}
_THUMBPRINT = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


def jwk(public: Any, algorithm: str = ALGORITHM) -> dict[str, Any]:
    """A public key as a JWK (RFC 7517, RFC 8037) with its thumbprint (RFC 7638) as ``kid``."""
    fields: dict[str, Any] = json.loads(_TO_JWK[algorithm](public))
    required = {name: fields[name] for name in _THUMBPRINT[fields["kty"]]}
    thumbprint = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode())
    kid = base64.urlsafe_b64encode(thumbprint.digest()).rstrip(b"=").decode()
    return {**required, "alg": algorithm, "use": "sig", "kid": kid}
