"""What happens at most once: a confirmation is used, a change with an idempotency key is made (R16, R20).

Kept here, behind every replica of the core. A key belongs to a person, the pair of issuer and subject of a verified
token (R1), whatever credential proved it. Nothing is decided here about what the person may do.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.authz.ports import Caller, Claim, Confirmation, Key, OnceStore
from services.authz.service import AuthzService
from services.common.clock import Clock
from services.common.errors import InvalidArgument
from services.common.ids import uuid7

KEPT = 24 * 3600.0
"""Seconds for which a key is remembered."""

LONGEST_CONFIRMATION = 3600.0
"""Seconds ahead that a confirmation may expire at most; its use is remembered for so long."""

MAX_KEY = 128
MAX_OUTCOME = 16 * 1024
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Used:
    """The confirmation was used before."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The confirmation has expired."""


class Once:
    """Answers the core's replicas."""

    def __init__(self, service: AuthzService, store: OnceStore, clock: Clock) -> None:
        self._service = service
        self._store = store
        self._clock = clock

    async def recall(self, caller: Caller, token: str, key: str, digest: bytes) -> Claim | None:
        """Who took a key of the token's person.

        Raises:
            Unauthenticated: the token is not valid, or was issued to another peer; recorded.
            InvalidArgument: the key is malformed. Unavailable: the store failed.
        """
        return await self._store.recall(await self._key(caller, token, key, digest), self._now())

    async def claim(
        self,
        caller: Caller,
        token: str,
        key: tuple[str, bytes] | None,
        confirmation: Confirmation | None,
        deadline: float,
    ) -> Claim | str | Used | Expired:
        """Uses a confirmation and takes a key, both or neither. The id of the new claim, or why there is none.

        Raises: as ``recall``.
        """
        now = self._now()
        if confirmation is not None:
            if not confirmation.id or confirmation.expires > now + LONGEST_CONFIRMATION:
                raise InvalidArgument("The confirmation has no id, or expires too far ahead.")
            if confirmation.expires <= now:
                return Expired()
        text, digest = key or ("", b"")
        mine = await self._key(caller, token, text, digest) if key else None
        if mine is None:
            await self._service.identify(caller, token, ())
        claim = Claim(uuid7() if mine else "", digest, caller.request_id, now, deadline)
        found = await self._store.claim(mine, claim, confirmation, now, now + KEPT)
        if isinstance(found, Claim):
            return found
        return claim.id if found else Used()

    async def settle(self, claim_id: str, outcome: str) -> None:
        """Stores how a claim ended, once.

        Raises:
            InvalidArgument: the outcome is missing or too long. Unavailable: the store failed.
        """
        if not outcome or len(outcome) > MAX_OUTCOME:
            raise InvalidArgument(f"An outcome has 1 to {MAX_OUTCOME} characters.")
        await self._store.settle(claim_id, outcome)

    async def release(self, claim_id: str) -> None:
        """Forgets a claim after which nothing was done. Raises Unavailable: the store failed."""
        await self._store.release(claim_id)

    async def _key(self, caller: Caller, token: str, text: str, digest: bytes) -> Key:
        if not 1 <= len(text) <= MAX_KEY or len(digest) != DIGEST_BYTES:
            raise InvalidArgument(f"An idempotency key has 1 to {MAX_KEY} characters, its digest {DIGEST_BYTES} bytes.")
        principal = (await self._service.identify(caller, token, ())).principal
        return Key(principal.issuer, principal.subject, text)

    def _now(self) -> float:
        return self._clock.now().timestamp()
