"""Principal tokens of authn as verified principals (R5)."""

from kubegate.common.v1 import identity_pb2
from services.authz.policy.model import Principal
from services.authz.policy.scope import EVERYWHERE, InvalidPattern, Scope
from services.authz.ports import Verified
from services.common.errors import Unauthenticated
from services.common.principal_token import PrincipalVerifier


class PrincipalTokens:
    """Verifies with authn's keys and reads the principal."""

    def __init__(self, verifier: PrincipalVerifier) -> None:
        self._verifier = verifier

    async def verify(self, token: str) -> Verified:
        """The principal of a token.

        Raises:
            Unauthenticated: the token is not valid, or names nobody (R1).
            Unavailable: authn's keys cannot be had.
        """
        verified = await self._verifier.verify(token)
        if not (verified.principal.issuer and verified.principal.subject):
            raise Unauthenticated("The principal token names nobody; authenticate again.")
        return Verified(to_principal(verified.principal), verified.authorized_party)


def to_principal(message: identity_pb2.Principal) -> Principal:
    """A principal from its message. A malformed namespace pattern is left out: it can only narrow."""
    return Principal(
        issuer=message.issuer,
        subject=message.subject,
        roles=tuple(message.roles),
        permissions=tuple(message.permissions),
        namespaces=_scope(message.namespaces),
        tools=frozenset(message.tools),
        credential_id=message.credential_id,
        auth_type=message.auth_type,
        tenant=message.tenant,
    )


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
