"""Done once: a change that is sent again with its idempotency key is never made twice (R20).

The key is taken before the intent is recorded, and the outcome is stored beside it when its record is durable. Whoever
sends the key again gets that outcome; where nobody could store one, because the core died between execution and
answer, it is told so, with what the cluster says now.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import Code, Conflict, DomainError, FailedPrecondition, Internal, from_code
from services.common.log import get_logger
from services.mcp_core.confirmation import refused
from services.mcp_core.journal import FIRST_PAUSE, PERSIST_SECONDS, Entry
from services.mcp_core.model import Caller, Result, ToolAnswer
from services.mcp_core.ports import Confirmed, Keeper, Spent, Taken
from services.mcp_core.tools.base import Tool

SETTLE_SECONDS = 2.0
"""How long an answer waits until its outcome is stored; after that it is stored in the background."""

MAX_OUTCOME = 16 * 1024
"""Longest outcome that is stored, in characters; of a longer answer only the success is kept."""

Look = Callable[[], Awaitable[str]]
"""One sentence about what the cluster says now."""

log = get_logger("once")


class AlreadyBegun(FailedPrecondition):
    """A call with this key was begun, and nobody knows how it ended. It is not executed again."""


class Once:
    """Knows the keys through authz. Background work goes on until ``drain``."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        self._keeper = keeper
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def recall(self, caller: Caller, tool: Tool, key: str, digest: bytes, look: Look) -> ToolAnswer | None:
        """The recorded answer of the call that took the key, None where nobody did.

        Raises:
            FailedPrecondition: the key was taken for something else. Conflict: that call is under way.
            AlreadyBegun: nobody knows how it ended. DomainError: as it ended.
        """
        taken = await self._keeper.recall(caller, key, digest)
        return await self._repeated(tool, taken, look) if taken is not None else None

    async def claim(
        self, caller: Caller, tool: Tool, key: str, digest: bytes, confirmed: Confirmed | None, look: Look
    ) -> str | ToolAnswer:
        """Takes the key and uses the confirmation, so that the call may act: the id of the claim, "" without a key; or
        the recorded answer of the call that took the key.

        Raises:
            ConfirmationRefused: the confirmation was used, or has expired. Otherwise as ``recall``.
        """
        until = self._clock.now().timestamp() + max(caller.context.deadline.remaining(), 0.0)
        said = await self._keeper.claim(caller, key, digest, confirmed, until)
        if isinstance(said, Spent):
            raise refused(said)
        return await self._repeated(tool, said, look) if isinstance(said, Taken) else said

    async def settle(self, claim_id: str, outcome: str) -> None:
        """Stores an outcome whose record is durable; what fails goes on in the background."""
        if not await self._try(self._keeper.settle, claim_id, outcome):
            self._spawn(self._insist(self._keeper.settle, claim_id, outcome))

    def release(self, claim_id: str) -> None:
        """Gives a key back, since nothing was executed. Nobody waits for that."""
        self._spawn(self._insist(self._keeper.release, claim_id))

    async def drain(self, seconds: float) -> None:
        """Waits for what goes on in the background, and gives up on the rest."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _repeated(self, tool: Tool, taken: Taken, look: Look) -> ToolAnswer:
        if not taken.same:
            raise FailedPrecondition(
                "Argument `idempotency_key` was used before, for another tool or other arguments; choose a new one."
            )
        request = f"request {taken.request_id}, which had the same idempotency_key"
        if not taken.outcome and self._clock.now().timestamp() < taken.deadline:
            raise Conflict(f"{request[0].upper()}{request[1:]}, is under way; ask again in a moment.", retry_after=1.0)
        outcome: dict[str, Any] = json.loads(taken.outcome or '{"result":"unknown"}')
        if outcome["result"] == Result.UNKNOWN:
            begun = datetime.fromtimestamp(taken.claimed_at, UTC).isoformat(timespec="seconds")
            raise AlreadyBegun(
                f"The call was begun at {begun} as {request}, and it is not known how it ended: it may have been done. "
                f"It is not executed again. {await look()} To call anew all the same, choose a new key."
            )
        if outcome["result"] == Result.ERROR:
            raise _as_it_ended(outcome, request)
        if "structured" not in outcome:
            raise FailedPrecondition(f"Already executed, with success, by {request}. Its answer was not kept.")
        structured = outcome["structured"]
        text = f"Recorded answer of {request}; nothing was executed now.\n{tool.text(structured)}"
        return ToolAnswer(structured, text, replay_of=taken.request_id)

    async def _try(self, do: Callable[..., Awaitable[None]], *arguments: str) -> bool:
        try:
            await do(*arguments, Deadline.after(SETTLE_SECONDS))
        except DomainError as error:
            log.warning("idempotency key not settled yet", claim_id=arguments[0], reason=error.public_message)
            return False
        return True

    async def _insist(self, do: Callable[..., Awaitable[None]], *arguments: str) -> None:
        give_up = self._clock.monotonic() + PERSIST_SECONDS
        pause = FIRST_PAUSE
        while not await self._try(do, *arguments):
            if self._clock.monotonic() >= give_up:
                log.error("idempotency key left unsettled: its outcome stays unknown", claim_id=arguments[0])
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def outcome_of(entry: Entry, answer: ToolAnswer | None, failure: DomainError | None) -> str:
    """How an executed call ended, as it is stored beside its key."""
    if entry.result is Result.UNKNOWN:
        return json.dumps({"result": Result.UNKNOWN})
    if answer is None and entry.result is not Result.SUCCESS:
        failure = failure or Internal()
        return json.dumps({"result": Result.ERROR, "code": int(failure.code), "message": failure.public_message[:4096]})
    # Without an answer: the change was made, and then the caller went away.
    kept = {"structured": answer.structured} if answer is not None else {}
    text = json.dumps({"result": Result.SUCCESS, **kept}, separators=(",", ":"))
    return text if len(text) <= MAX_OUTCOME else json.dumps({"result": Result.SUCCESS})


def _as_it_ended(outcome: dict[str, Any], request: str) -> DomainError:
    code = Code(outcome["code"])
    message = f"{outcome['message']} So ended {request}; nothing was executed now. To try again, choose a new key."
    return Internal() if code is Code.INTERNAL else from_code(code, message)
