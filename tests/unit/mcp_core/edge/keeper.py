"""What authz keeps for the core, in memory: confirmations, idempotency keys, questions; and a seal to see through."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.common.deadline import Deadline
from services.common.errors import DomainError, NotFound
from services.mcp_core.model import Caller
from services.mcp_core.ports import Confirmed, Said, Spent, Taken
from tests.fakes.clock import FakeClock


class FakeKeeper:
    """authz's store in memory. `error`: what every call raises."""

    def __init__(self, log: list[str], clock: FakeClock) -> None:
        self.log = log
        self.clock = clock
        self.error: DomainError | None = None
        self.used: set[str] = set()
        self.questions: dict[str, tuple[str, asyncio.Future[Said]]] = {}
        self.taken: dict[tuple[str, str], tuple[str, bytes, Taken]] = {}

    async def recall(self, caller: Caller, key: str, digest: bytes) -> Taken | None:
        self._called("recall")
        found = self.taken.get((caller.principal.user, key))
        return self._shown(found, digest) if found is not None else None

    async def claim(
        self, caller: Caller, key: str, digest: bytes, confirmed: Confirmed | None, until: float
    ) -> str | Taken | Spent:
        self._called("claim")
        if key and (found := self.taken.get((caller.principal.user, key))) is not None:
            return self._shown(found, digest)
        if confirmed is not None:
            if confirmed.expires <= self.clock.now().timestamp():
                return Spent.EXPIRED
            if confirmed.id in self.used:
                return Spent.USED
            self.used.add(confirmed.id)
        if not key:
            return ""
        claim_id = f"claim-{len(self.taken)}"
        now = self.clock.now().timestamp()
        taken = Taken(True, caller.context.request_id, now, until)
        self.taken[caller.principal.user, key] = claim_id, digest, taken
        return claim_id

    async def settle(self, claim_id: str, outcome: str, deadline: Deadline) -> None:
        self._called("settle")
        for key, (found, digest, taken) in self.taken.items():
            if found == claim_id and not taken.outcome:
                self.taken[key] = claim_id, digest, replace(taken, outcome=outcome)

    async def release(self, claim_id: str, deadline: Deadline) -> None:
        self._called("release")
        self.taken = {key: each for key, each in self.taken.items() if each[0] != claim_id}

    async def ask(self, caller: Caller) -> str:
        self._called("ask")
        key = f"question-{len(self.questions)}"
        self.questions[key] = caller.principal.user, asyncio.get_running_loop().create_future()
        return key

    async def answer(self, caller: Caller, question_id: str, said: Said) -> None:
        self._called("answer")
        user, answered = self.questions.get(question_id, ("", None))
        if answered is None or user != caller.principal.user:
            raise NotFound("No such question is open.")
        if not answered.done():
            answered.set_result(said)

    async def wait(self, caller: Caller, question_id: str, seconds: float) -> Said:
        self._called("wait")
        return await self.questions[question_id][1]

    def _called(self, step: str) -> None:
        if self.error:
            raise self.error
        self.log.append(step)

    @staticmethod
    def _shown(found: tuple[str, bytes, Taken], digest: bytes) -> Taken:
        return found[2] if found[1] == digest else Taken(False)


class FakeSealer:
    """Seals legibly, so that tests can see into it; opens only what it sealed."""

    def __init__(self) -> None:
        self.sealed: dict[str, bytes] = {}

    def seal(self, content: bytes) -> str:
        token = f"sealed-{len(self.sealed)}"
        self.sealed[token] = content
        return token

    def open(self, token: str) -> bytes | None:
        return self.sealed.get(token)
