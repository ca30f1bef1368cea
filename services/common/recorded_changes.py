"""An administrative change between its two records: once announced it is carried out, and how it ended is recorded."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from services.common.deadline import Deadline
from services.common.errors import Code, DomainError, FailedPrecondition, Unavailable
from services.common.log import get_logger

OUTCOME_PATIENCE = 5.0
"""Seconds that the record of an outcome gets, however little time the caller left."""

T = TypeVar("T")
Undo = Callable[[], Awaitable[object]]

log = get_logger("recorded_changes")


def code_of(error: Exception) -> str:
    """What the record says of a refusal or a failure: its code, for a message may hold what a caller wrote."""
    return (error.code if isinstance(error, DomainError) else Code.INTERNAL).name.lower()


def intent_ends(now: datetime, deadline: Deadline) -> datetime:
    """When an intent without an outcome is an orphan at the earliest (R21)."""
    return now + timedelta(seconds=max(deadline.remaining(), 0.0) + OUTCOME_PATIENCE)


class RecordedChanges:
    """Carries out changes whose intent is durable. Nobody can cancel one (R18)."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def carry_out(
        self,
        apply: Callable[[], Awaitable[T]],
        outcome: Callable[[Exception | None], Awaitable[object]],
        undo: Undo | None = None,
    ) -> T:
        """What ``apply`` returns, once ``outcome`` has recorded its success, or its error.

        ``undo`` takes the change back where its success cannot be recorded; without it the change stands, and the
        caller is told so.

        Raises:
            Exception: as ``apply``; recorded.
            Unavailable: the outcome could not be recorded; nothing is changed.
            FailedPrecondition: the change stands and its outcome is not recorded; not to be repeated (R20).
        """
        task = asyncio.create_task(_carry_out(apply, outcome, undo))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Waits for the changes that are under way."""
        await asyncio.gather(*self._running, return_exceptions=True)


async def _carry_out(
    apply: Callable[[], Awaitable[T]],
    outcome: Callable[[Exception | None], Awaitable[object]],
    undo: Undo | None,
) -> T:
    try:
        result = await apply()
    except Exception as error:
        await outcome(error)
        raise
    try:
        await outcome(None)
    except DomainError as error:
        if undo is not None and await _taken_back(undo):
            raise Unavailable("The outcome could not be recorded. Nothing was changed; try again shortly.") from error
        raise FailedPrecondition(
            "The change is made, but its outcome could not be recorded. Do not repeat it."
        ) from error
    return result


async def _taken_back(undo: Undo) -> bool:
    try:
        await undo()
    except Exception as error:
        log.error("change not taken back", exc_info=error)
        return False
    return True
