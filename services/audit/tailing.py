"""Following the log as it grows: one reading that lasts, so whether its reader may is asked for as long as it goes on.

What was read goes out only where, right before, the reader's credential has not ended and policy is at the revision
at which it allowed the tail; else policy is asked again, and that is recorded (R19). Both are known by leases of a
second (R12), and nothing goes out while there is none. A tail is two records, its begin and its end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.audit.authorizing import Authorizer, Reader, within
from services.audit.bounded import next_page
from services.audit.event import Event, EventType, Identity, Phase, Result
from services.audit.ports import Filter, Grant, Log, Policy, Principals, Record
from services.audit.slots import Slots
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError, PermissionDenied, Unauthenticated
from services.common.ids import uuid7
from services.common.log import get_logger

PAUSE = 0.1
"""Seconds between two looks of a tail at a log that grows: a look for every commit would cost the writers more than
their commits."""

IDLE = 0.5
"""Seconds between two looks at whether the reader still may, where nothing comes."""

AGAIN = timedelta(seconds=1)
"""How long a decision counts that may not be kept, such as one that reads the time: as long as a lease does."""

ASKING = 5.0
"""Seconds that policy has to answer while a tail goes on."""

log = get_logger("audit.tails")


@dataclass(slots=True)
class _Tail:
    """A tail under way: its begin's event_id, and until when its newest decision counts."""

    id: str
    reader: Reader
    described: Mapping[str, str]
    identity: Identity
    grant: Grant
    until: datetime
    sent: int = 0


class AuditTailing:
    """Gives new records to readers that policy allows."""

    def __init__(self, log: Log, authorizer: Authorizer, principals: Principals, policy: Policy, clock: Clock) -> None:
        self._log, self._authorizer = log, authorizer
        self._principals, self._policy, self._clock = principals, policy, clock
        self._slots = Slots("Tails", total=64, each=16)
        self._ending: set[asyncio.Task[None]] = set()

    async def follow(
        self, reader: Reader, filter_: Filter, from_sequence: int | None, stopping: asyncio.Event | None = None
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Records as they are committed, from a leaf index or from now on. Ends with the reader's token
        (R5), and where the service is ``stopping``: a client continues with a new token after the last sequence that
        it saw.

        Raises:
            Unauthenticated, PermissionDenied: R15; also later on, once the reader's credential is revoked or policy
                no longer lets it read (R19).
            ResourceExhausted: too many tails are under way.
            DomainError: a decision or the record of it could not be had.
        """
        with self._slots.of(reader.peer):
            position = self._log.size if from_sequence is None else from_sequence
            tail = await self._begin(reader, filter_)
            failure: DomainError | None = None
            try:
                async for records in self._records(tail, within(tail.identity, filter_), position, stopping):
                    tail.sent += len(records)
                    yield records
            except DomainError as error:
                failure = error
                raise
            finally:
                # Not waited for: whoever has gone waits for nothing.
                task = asyncio.create_task(self._end(tail, failure))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def ended(self) -> None:
        """Returns when the ends of all tails are on record; to be waited for before the log stops."""
        while self._ending:
            await asyncio.wait(self._ending)

    async def _begin(self, reader: Reader, filter_: Filter) -> _Tail:
        begin, described = uuid7(), filter_.described()
        identity, grant = await self._authorizer.decide(reader, "audit.Tail", described, event_id=begin)
        return _Tail(begin, reader, described, identity, grant, self._counts_until(grant))

    def _counts_until(self, grant: Grant) -> datetime:
        return max(grant.until, self._clock.now() + AGAIN)

    async def _records(
        self, tail: _Tail, filter_: Filter, position: int, stopping: asyncio.Event | None
    ) -> AsyncIterator[Sequence[Record]]:
        while stopping is None or not stopping.is_set():
            size = self._log.size
            records: Sequence[Record] = ()
            if position < size:
                records, position = await next_page(self._log, filter_, position, size)
            if not await self._may_go_on(tail, sending=bool(records)):
                return
            if records:
                yield records
            if position < size:
                continue
            left = (tail.identity.expires_at - self._clock.now()).total_seconds()
            try:
                async with asyncio.timeout(min(left, IDLE)):
                    await self._log.grown(position)
            except TimeoutError:
                continue
            await asyncio.sleep(PAUSE)

    async def _may_go_on(self, tail: _Tail, *, sending: bool) -> bool:
        """Whether the token still counts. Raises as ``follow`` where the reader may read no longer."""
        while self._clock.now() < tail.identity.expires_at:
            await self._principals.verify(tail.reader.token)
            changed = tail.grant.revision < await self._policy.revision()
            if not changed and (self._clock.now() < tail.until or not sending):
                return True
            reader = replace(tail.reader, deadline=Deadline.after(ASKING))
            described = {**tail.described, "continues": tail.id}
            _, tail.grant = await self._authorizer.decide(reader, "audit.Tail", described)
            tail.until = self._counts_until(tail.grant)
        return False

    async def _end(self, tail: _Tail, failure: DomainError | None) -> None:
        refused = isinstance(failure, PermissionDenied | Unauthenticated)
        event = Event(
            event_id=uuid7(),
            timestamp=self._clock.now(),
            event_type=EventType.ADMIN,
            action="audit.Tail",
            resource="audit",
            result=Result.SUCCESS if failure is None else Result.FAILURE if refused else Result.ERROR,
            error_message=failure.public_message if failure is not None else "",
            metadata={"operator": tail.reader.peer, "events": str(tail.sent)},
            request_id=tail.reader.request_id,
            phase=Phase.OUTCOME,
            intent_id=tail.id,
        )
        try:
            await self._authorizer.record(event, tail.identity)
        except DomainError as error:
            log.error("the end of a tail is not recorded", tail=tail.id, reason=error.public_message)
