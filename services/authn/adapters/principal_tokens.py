"""Principal tokens: signed for askers, verified when operators bring them back (R5, R15)."""

from services.authn.adapters.key_ring import KeyRing
from services.authn.messages import principal_from_proto, principal_to_proto
from services.authn.model import Principal
from services.common.clock import Clock
from services.common.ids import uuid7
from services.common.principal_token import PrincipalVerifier, issue


class PrincipalTokenIssuer:
    """Signs principal tokens."""

    def __init__(self, ring: KeyRing, clock: Clock) -> None:
        self._ring = ring
        self._clock = clock

    def issue(self, principal: Principal, peer: str, revision: int) -> str:
        key = self._ring.current
        return issue(
            principal_to_proto(principal),
            peer,
            key.private,
            key.kid,
            now=self._clock.now(),
            token_id=uuid7(),
            revision=revision,
        )


class OperatorTokenVerifier:
    """Verifies principal tokens with our own public keys, without asking anybody."""

    def __init__(self, ring: KeyRing, clock: Clock) -> None:
        self._verifier = PrincipalVerifier(ring, clock)

    async def verify(self, token: str) -> tuple[Principal, str, int]:
        verified = await self._verifier.verify(token)
        return principal_from_proto(verified.principal), verified.authorized_party, verified.revision
