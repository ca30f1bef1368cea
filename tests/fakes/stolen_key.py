"""A signing key of authn in the wrong hands: opened from a copy of its store, with its key-encryption key."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from sqlalchemy import create_engine, select

from kubegate.common.v1 import identity_pb2
from services.authn.adapters import schema
from services.authn.adapters.key_ring import in_order, signing
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose, SigningKey, opened
from services.common import principal_token
from services.common.config import read_secret
from services.common.ids import uuid7

LATER = 2**60
"""A revision that no revocation will ever reach."""


def steal(store: Path, kek_file: Path, purpose: Purpose) -> SigningKey:
    """The key that signs now."""
    engine = create_engine(f"sqlite:///{store}")
    with engine.connect() as connection:
        rows = connection.execute(select(schema.signing_keys).where(schema.signing_keys.c.purpose == purpose.value))
        keys = in_order(schema.sealed_key(row) for row in rows)
    engine.dispose()
    return opened(signing(keys, datetime.now(UTC)), KeyEncryptionKey(read_secret(kek_file)))


def forge_access(key: SigningKey, genuine: str, **claims: Any) -> str:
    """An access token for whomever the thief likes, after the pattern of a genuine one."""
    like = jwt.decode(genuine, options={"verify_signature": False})
    headers = {"typ": "at+jwt", "kid": key.kid}
    return jwt.encode({**like, "jti": uuid7(), **claims}, key.private, algorithm=key.algorithm, headers=headers)


def forge_principal(key: SigningKey, principal: identity_pb2.Principal, peer: str) -> str:
    """A principal token that says it was issued after everything that will ever end."""
    now = datetime.now(UTC)
    return principal_token.issue(principal, peer, key.private, key.kid, now=now, token_id=uuid7(), revision=LATER)
