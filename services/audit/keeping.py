"""The decisions of the audit service on what is deleted, when, and what a legal hold keeps.

Deletion follows one policy, ``retention_days`` of the configuration: once an hour, or when an operator who may
``kubegate:audit:retire`` asks. Holds are placed and released by operators who may ``kubegate:audit:hold``. All of it
concerns the whole log, so nobody of one tenant may.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.audit.authorizing import HOLD, RETIRE, Authorizer, Reader
from services.audit.event import Event, EventType, Identity, Result, rfc3339
from services.audit.ports import Hold, Log
from services.audit.retention import PLACED, RELEASED, SEGMENT
from services.common.clock import Clock
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound
from services.common.ids import uuid7
from services.common.log import get_logger

PERIOD = 3600.0
"""Seconds between two looks for what is old enough."""

AT_ONCE = 16
"""Segments deleted in one transaction: whoever records meanwhile waits no longer than for that."""

LEAVES_AT_ONCE = 32
"""Segments whose leaf hashes are sent together."""

log = get_logger("audit.retention")


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept and why. ``days``: 0 where nothing is ever deleted. ``first``: the first event that is there."""

    days: int
    first: int
    size: int
    tombstone: str
    holds: Sequence[Hold]


class AuditKeeping:
    """Deletes by policy, and takes and releases holds."""

    def __init__(self, log: Log, authorizer: Authorizer, clock: Clock, days: int | None) -> None:
        self._log, self._authorizer, self._clock, self._days = log, authorizer, clock, days
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Deletes at once and then every hour, where a policy says so, until cancelled. What fails is the next hour's
        business."""
        while self._days is not None:
            try:
                await self._delete(self._days, None)
            except Exception as error:
                with suppress(Exception):
                    log.error("what is old enough could not be deleted", exc_info=error)
            await asyncio.sleep(PERIOD)

    async def show(self, reader: Reader) -> Kept:
        """What is kept and why.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            DomainError: the decision or the record of it could not be had.
        """
        await self._authorizer.authorize(reader, "audit.GetRetention", {}, whole_log=True)
        holds, tombstone = await self._log.holds(), await self._log.tombstone()
        return Kept(self._days or 0, self._log.first, self._log.size, tombstone, holds)

    async def leaves(self, reader: Reader) -> AsyncIterator[bytes]:
        """Leaf hashes of deleted events, one after the other, in parts. Raises as ``show``."""
        await self._authorizer.authorize(reader, "audit.GetRetiredLeaves", {}, whole_log=True)
        segment = 0
        while segments := await self._log.retired(segment, LEAVES_AT_ONCE):
            segment += len(segments)
            yield b"".join(segments)

    async def hold(self, reader: Reader, reason: str, since: datetime | None) -> str:
        """Keeps everything from a time on, or everything, until released; the id of the hold.

        Raises:
            InvalidArgument: without a reason, or from a time that is still to come.
            Unauthenticated, PermissionDenied: R15, with ``kubegate:audit:hold``.
            DomainError: the decision or the record could not be had; nothing is held then.
        """
        if not reason:
            raise InvalidArgument("A hold needs a reason, such as the number of a case.")
        if since is not None and since > self._clock.now():
            raise InvalidArgument("since: a hold begins at a time that is over; leave it out to keep everything.")
        hold, described = uuid7(), {"reason": reason} | ({"since": rfc3339(since)} if since else {})
        # Whoever is denied leaves a record of it that is no hold, for its result is not success.
        await self._authorizer.authorize(reader, PLACED, described, HOLD, event_id=hold, whole_log=True)
        return hold

    async def release(self, reader: Reader, hold: str, reason: str) -> None:
        """Ends a hold.

        Raises:
            InvalidArgument: without a reason.
            NotFound: it is not in force.
            Unauthenticated, PermissionDenied: R15, with ``kubegate:audit:hold``.
            DomainError: the decision or the record could not be had.
        """
        if not reason:
            raise InvalidArgument("Releasing a hold needs a reason, such as who decided it.")
        known = any(each.id == hold for each in await self._log.holds())
        described = {"hold": hold[:64], "reason": reason}
        await self._authorizer.authorize(reader, RELEASED, described, HOLD, whole_log=True)
        if not known:
            raise NotFound("There is no such hold in force; `kubegate audit retention` lists them.")

    async def retire(self, reader: Reader) -> int:
        """Deletes what the policy lets be deleted, now; the number of events.

        Raises:
            FailedPrecondition: there is no policy.
            Unauthenticated, PermissionDenied: R15, with ``kubegate:audit:retire``.
            DomainError: the decision or the record could not be had, or the store could not delete.
        """
        identity = await self._authorizer.authorize(
            reader, "audit.Retire", {"days": str(self._days or 0)}, RETIRE, whole_log=True
        )
        if self._days is None:
            raise FailedPrecondition("No event is ever deleted: set retention_days in the configuration of audit.")
        return await self._delete(self._days, identity)

    async def _delete(self, days: int, identity: Identity | None) -> int:
        until, first = rfc3339(self._clock.now() - timedelta(days=days)), self._log.first
        async with self._busy:
            count = 0
            try:
                while segments := await self._log.retire(until, AT_ONCE):
                    count += segments * SEGMENT
            finally:
                # What is gone is gone, whatever became of the rest.
                if count:
                    log.info("events deleted by retention", first=first, events=count, until=until)
                    await self._record(first, count, until, days, identity)
        return count

    async def _record(self, first: int, count: int, until: str, days: int, identity: Identity | None) -> None:
        event = Event(
            event_id=uuid7(),
            timestamp=self._clock.now(),
            event_type=EventType.ADMIN,
            action="audit.Retired",
            resource="audit",
            result=Result.SUCCESS,
            metadata={"first": str(first), "events": str(count), "until": until, "days": str(days)},
        )
        try:
            await self._authorizer.record(event, identity)
        except DomainError as error:
            # It is done, and the tombstone says so.
            log.error("the deletion is not recorded but in its tombstone", reason=error.public_message)
