"""Principal tokens of authn as verified principals (R5)."""

import json
from collections import OrderedDict

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.common.v1 import identity_pb2
from services.authz.policy.model import NEVER, Principal
from services.authz.policy.scope import EVERYWHERE, InvalidPattern, Scope
from services.authz.ports import Verified
from services.common.errors import Unauthenticated
from services.common.principal_token import PrincipalVerifier, VerifiedPrincipal

CACHE_SIZE = 4_096
"""Tokens whose principals are remembered."""

MAX_RECORDED = 4_000
"""Characters of a principal in a record."""


class PrincipalTokens:
    """Verifies with authn's keys and reads the principal, once for each token."""

    def __init__(self, verifier: PrincipalVerifier) -> None:
        self._verifier = verifier
        self._read: OrderedDict[str, tuple[VerifiedPrincipal, Verified]] = OrderedDict()

    async def verify(self, token: str) -> Verified:
        """The principal of a token; the same object as long as the token lives.

        Raises:
            Unauthenticated: the token is not valid, or names nobody (R1).
            Unavailable: authn's keys cannot be had.
        """
        proven = await self._verifier.verify(token)
        known = self._read.get(proven.token_id)
        if known is not None and known[0] is proven:
            return known[1]
        if not (proven.principal.issuer and proven.principal.subject):
            raise Unauthenticated("The principal token names nobody; authenticate again.")
        principal = to_principal(proven.principal)
        verified = Verified(principal, proven.authorized_party, proven.expires_at.timestamp(), recorded(principal))
        self._read[proven.token_id] = proven, verified
        if len(self._read) > CACHE_SIZE:
            self._read.popitem(last=False)
        return verified


def to_principal(message: identity_pb2.Principal) -> Principal:
    """A principal from its message. A malformed namespace pattern is left out: it can only narrow."""
    return Principal(
        issuer=message.issuer,
        subject=message.subject,
        roles=tuple(message.roles),
        permissions=tuple(message.permissions),
        namespaces=_scope(message.namespaces),
        tools=frozenset(message.tools),
        narrowed_to=frozenset(message.narrowed_to),
        actors=tuple((actor.issuer, actor.subject) for actor in message.actors),
        credential_id=message.credential_id,
        auth_type=message.auth_type,
        tenant=message.tenant,
        groups=tuple(message.groups),
        amr=tuple(message.amr),
        auth_time=_seconds(message.auth_time) if message.HasField("auth_time") else None,
        expires=_seconds(message.expires_at) if message.HasField("expires_at") else NEVER,
    )


def recorded(principal: Principal) -> str:
    """A principal as records show it: what policy reads of it, as compact JSON; empty where it is too long."""
    values = {
        "issuer": principal.issuer,
        "subject": principal.subject,
        "roles": principal.roles,
        "permissions": principal.permissions,
        "namespaces": None if principal.namespaces.everything else principal.namespaces.patterns(),
        "tools": sorted(principal.tools),
        "narrowed_to": sorted(principal.narrowed_to),
        "actors": principal.actors,
        "tenant": principal.tenant,
        "groups": principal.groups,
        "amr": principal.amr,
        "auth_type": principal.auth_type,
        "auth_time": principal.auth_time,
    }
    text = json.dumps(
        {key: value for key, value in values.items() if key == "namespaces" or value}, separators=(",", ":")
    )
    return text if len(text) <= MAX_RECORDED else ""


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def _scope(message: identity_pb2.NamespaceScope) -> Scope:
    if message.all:
        return EVERYWHERE
    patterns = []
    for pattern in message.patterns:
        try:
            Scope.of([pattern])
        except InvalidPattern:
            continue
        patterns.append(pattern)
    return Scope.of(patterns)
