"""The principal token: authn's word to authz and audit about who is calling (R5).

An EdDSA JWT (RFC 8037) with a ``typ`` and a key of its own, valid for 60 seconds, addressed to services only.
``azp`` is the SPIFFE ID of the peer that it was issued to; verifiers compare it with the peer that shows it.
``rev`` is the revision of the revocations that authn knew when it judged the credential (R12).
The claim ``principal`` is a serialized ``kubegate.common.v1.Principal`` in base64url.
"""

import asyncio
import base64
import binascii
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import jwt
from google.protobuf.message import DecodeError

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.clock import Clock, SystemClock
from services.common.deadline import Deadline
from services.common.errors import DomainError, Unauthenticated, Unavailable
from services.common.grpc_client import Peer
from services.common.log import Outage, get_logger
from services.common.tls import spiffe_id

ISSUER = "kubegate"
AUDIENCE = "kubegate-internal"
TYP = "kubegate-principal+jwt"
ALGORITHM = "EdDSA"
LIFETIME = 60
"""Seconds."""

NO_MATTER = float("-inf")
"""A moment before all others."""

_REFUSED = "The principal token is not valid; authenticate again."
_CACHE_SIZE = 4096

log = get_logger("principal_token")


def encode_principal(principal: identity_pb2.Principal) -> dict[str, str]:
    """The claims that carry a principal."""
    raw = principal.SerializeToString(deterministic=True)
    return {
        "sub": principal.subject,
        "principal": base64.urlsafe_b64encode(raw).decode(),
    }


def decode_principal(claims: Mapping[str, Any]) -> identity_pb2.Principal:
    """The principal in verified claims.

    Raises:
        Unauthenticated: there is none.
    """
    try:
        raw = base64.b64decode(claims["principal"], altchars=b"-_", validate=True)
        principal = identity_pb2.Principal.FromString(raw)
    except (KeyError, TypeError, ValueError, binascii.Error, DecodeError) as error:
        raise Unauthenticated(_REFUSED) from error
    if not principal.issuer or not principal.subject:
        raise Unauthenticated(_REFUSED)
    return principal


def issue(
    principal: identity_pb2.Principal,
    peer: str,
    key: Any,
    key_id: str,
    *,
    now: datetime,
    token_id: str,
    revision: int = 0,
) -> str:
    """A principal token for ``peer`` (a SPIFFE path), signed with authn's Ed25519 private key.

    ``revision``: read before the credential was judged, so that a change in between ends the token."""
    issued = int(now.timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "azp": spiffe_id(peer),
        "iat": issued,
        "exp": issued + LIFETIME,
        "jti": token_id,
        "rev": revision,
        **encode_principal(principal),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"typ": TYP, "kid": key_id})


def key_id(token: str) -> str:
    """Id of the key that a token of authn says it is signed with; empty where it says none."""
    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except jwt.PyJWTError:
        return ""


@dataclass(frozen=True, slots=True)
class VerifiedPrincipal:
    """What a valid principal token says. ``authorized_party`` is a SPIFFE path, ``revision`` the claim ``rev``.

    ``expires_at``: the end of the token, or of the credential behind it where that comes first."""

    principal: identity_pb2.Principal
    authorized_party: str
    expires_at: datetime
    token_id: str
    revision: int = 0
    key_id: str = ""


class KeySource(Protocol):
    """Authn's public keys for principal tokens."""

    async def find(self, key_id: str, since: float = NO_MATTER) -> Any | None:
        """The Ed25519 public key of that id, if there is one. ``since``: keys that were asked for before this moment
        (monotonic seconds) do not count.

        Raises:
            Unavailable: it cannot be told now.
        """
        ...


class PrincipalVerifier:
    """Verifies each token once and remembers the answer until the token ends, or its key is there no more."""

    def __init__(self, keys: KeySource, clock: Clock | None = None) -> None:
        self._keys = keys
        self._clock = clock or SystemClock()
        self._seen: OrderedDict[bytes, VerifiedPrincipal] = OrderedDict()

    async def verify(self, token: str) -> VerifiedPrincipal:
        """The principal that authn vouches for.

        Raises:
            Unauthenticated: the token is malformed, expired, of another kind, or signed by another key.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        seen = self._seen.get(digest)
        if seen is not None:
            if seen.expires_at > self._clock.now() and await self._key(seen.key_id) is not None:
                return seen
            self._seen.pop(digest, None)
            raise Unauthenticated(_REFUSED)
        verified = await self._verify(token)
        self._seen[digest] = verified
        if len(self._seen) > _CACHE_SIZE:
            self._seen.popitem(last=False)
        return verified

    async def _key(self, key_id: str) -> Any | None:
        return await self._keys.find(key_id)

    async def _verify(self, token: str) -> VerifiedPrincipal:
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != TYP or header.get("alg") != ALGORITHM:
                raise Unauthenticated(_REFUSED)
            key_id = str(header.get("kid", ""))
            key = await self._key(key_id)
            if key is None:
                raise Unauthenticated(_REFUSED)
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={
                    "require": ["exp", "iat", "azp", "jti", "principal"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            principal = decode_principal(claims)
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
            if principal.HasField("expires_at"):
                # It dies with its credential, also where that just runs out (R5).
                expires_at = min(expires_at, principal.expires_at.ToDatetime(UTC))
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, OSError) as error:
            raise Unauthenticated(_REFUSED) from error
        prefix = spiffe_id("")
        azp = claims["azp"]
        if expires_at <= self._clock.now() or not isinstance(azp, str) or not azp.startswith(prefix):
            raise Unauthenticated(_REFUSED)
        return VerifiedPrincipal(
            principal,
            azp.removeprefix(prefix),
            expires_at,
            str(claims["jti"]),
            rev if type(rev := claims.get("rev", 0)) is int else 0,
            key_id,
        )


class RemotePrincipalKeys:
    """Authn's keys, fetched over mTLS, refreshed on an unknown id (rate limited) and every five minutes."""

    _PERIOD = 300.0
    _RETRY = 0.5

    def __init__(self, authn: Peer, clock: Clock | None = None) -> None:
        self._authn = authn
        self._clock = clock or SystemClock()
        self._keys: dict[str, Any] = {}
        self._asked_at = NO_MATTER
        """When the keys at hand were asked for."""
        self._tried_at = NO_MATTER
        self._failed = False
        self._outage = Outage(log, "principal keys not fetched", "principal keys fetched again")
        self._lock = asyncio.Lock()

    async def find(self, key_id: str, since: float = NO_MATTER) -> Any | None:
        if key_id not in self._keys or self._asked_at < since:
            async with self._lock:
                wanted = key_id not in self._keys or self._asked_at < since
                if wanted and (self._tried_at < since or self._clock.monotonic() - self._tried_at >= self._RETRY):
                    await self._fetch()
            if self._asked_at < since or (key_id not in self._keys and (self._failed or not self._keys)):
                raise Unavailable("Principal tokens cannot be verified yet: the authn service has not been reached.")
        return self._keys.get(key_id)

    def problems(self) -> list[str]:
        """Why principal tokens cannot be verified; empty when they can."""
        return [] if self._keys else ["waiting for the authn service: principal keys not loaded"]

    async def keep_fresh(self) -> None:
        """Runs until cancelled: fetches at once, then periodically."""
        while True:
            try:
                async with self._lock:
                    await self._fetch()
            except DomainError as error:
                self._outage.failed(reason=error.public_message)
            await asyncio.sleep(self._PERIOD if self._keys else self._RETRY)

    async def _fetch(self) -> None:
        asked_at = self._tried_at = self._clock.monotonic()
        self._failed = True
        response: authn_pb2.GetPrincipalKeysResponse = await self._authn.unary(
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).GetPrincipalKeys,
            authn_pb2.GetPrincipalKeysRequest(),
            Deadline.after(5),
        )
        self._keys = {
            jwk["kid"]: jwt.PyJWK.from_dict(jwk).key for jwk in json.loads(response.jwks_json)["keys"] if "kid" in jwk
        }
        self._asked_at = asked_at
        self._failed = False
        self._outage.worked()
