"""Principal tokens, verified with the keys that authn publishes (R5)."""

from collections.abc import Awaitable, Callable

from services.audit.event import Identity
from services.common.identity import user_name
from services.common.revocations import LivePrincipalVerifier


class TokenPrincipals:
    """The port ``Principals`` over the shared verifier."""

    def __init__(self, verifier: LivePrincipalVerifier) -> None:
        self._verifier = verifier

    async def verify(self, token: str) -> Identity:
        verified = await self._verifier.verify(token)
        principal = verified.principal
        return Identity(
            issuer=principal.issuer,
            subject=principal.subject,
            credential_id=principal.credential_id,
            auth_type=principal.auth_type,
            tenant=principal.tenant,
            authorized_party=verified.authorized_party,
            expires_at=verified.expires_at,
            roles=tuple(principal.roles),
            groups=tuple(principal.groups),
            amr=tuple(principal.amr),
            actors=tuple(user_name(actor.issuer, actor.subject) for actor in principal.actors),
        )

    async def watch(self, token: str) -> Callable[[], Awaitable[None]]:
        verified = await self._verifier.verify(token)
        return lambda: self._verifier.check_alive(verified)
