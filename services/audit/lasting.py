"""Readings that last: whether the reader may is asked for as long as they go on, and how they ended is on record.

What was read goes out only where, right before, the reader's credential has not ended and policy is at the revision
at which it allowed the reading; else policy is asked again, and that is recorded (R19). Both are known by leases of a
second (R12), and nothing goes out while there is none. A reading may outlast its token, which lives for a minute (R5),
but from then on nothing can be asked again: a change of policy ends it.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from services.audit.authorizing import Authorizer, Reader
from services.audit.event import Event, EventType, Identity, Phase, Result
from services.audit.ports import Grant, Policy, Principals, Record
from services.common.call import CURRENT
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded, DomainError, Internal, PermissionDenied, Unauthenticated
from services.common.ids import uuid7
from services.common.log import get_logger

AGAIN = timedelta(seconds=1)
"""How long a decision counts that may not be kept, such as one that reads the time: as long as a lease does."""

ROUNDING = timedelta(milliseconds=10)

ASKING = 5.0
"""Seconds that policy has to answer while a reading goes on."""

STALLED = 30.0
"""Seconds for which a reader may leave a page lying: then its place is another's."""

GONE = "The reader went away before the end."

log = get_logger("audit.readings")

Page = TypeVar("Page", bound=tuple[Sequence[Record], Any])


@dataclass(slots=True)
class Reading:
    """A reading under way. id: of the record of its begin. lives: raises once the reader's credential has ended. until:
    when its newest decision counts no more. sent: how many records. left: why it stopped before its end."""

    id: str
    action: str
    reader: Reader
    described: Mapping[str, str]
    identity: Identity
    grant: Grant
    until: datetime
    lives: Callable[[], Awaitable[None]]
    whole_log: bool = False
    sent: int = 0
    left: str = ""


class Lasting:
    """Begins, continues and ends readings."""

    def __init__(self, authorizer: Authorizer, principals: Principals, policy: Policy, clock: Clock) -> None:
        self._authorizer, self._principals, self._policy, self._clock = authorizer, principals, policy, clock
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(
        self, reader: Reader, action: str, described: Mapping[str, str], *, whole_log: bool = False
    ) -> Reading:
        """A reading that policy allows, on record. Raises as ``Authorizer.decide``."""
        begin = uuid7()
        identity, grant = await self._authorizer.decide(reader, action, described, whole_log=whole_log, event_id=begin)
        lives = await self._principals.watch(reader.token)
        until = self._counts_until(grant)
        return Reading(begin, action, reader, described, identity, grant, until, lives, whole_log)

    async def check(self, reading: Reading, *, sending: bool = True) -> None:
        """Returns where the reader still may.

        Raises:
            Unauthenticated, PermissionDenied: the credential has ended, or policy no longer allows it; also where
                policy has to be asked and the token is too old to ask with.
            DomainError: it cannot be told.
        """
        while True:
            await reading.lives()
            changed = reading.grant.revision < await self._policy.revision()
            if not changed and (self._counts(reading) or not sending):
                return
            reader = replace(reading.reader, deadline=Deadline.after(ASKING))
            described = {**reading.described, "continues": reading.id}
            _, reading.grant = await self._authorizer.decide(
                reader, reading.action, described, whole_log=reading.whole_log
            )
            reading.until = self._counts_until(reading.grant)

    def _counts(self, reading: Reading) -> bool:
        now, ends = self._clock.now(), reading.identity.expires_at
        # No decision may be kept for longer than the token: what counted for that long ends with it in form only.
        return now < reading.until or ends <= reading.grant.until + ROUNDING

    def _counts_until(self, grant: Grant) -> datetime:
        return max(grant.until, self._clock.now() + AGAIN)

    async def over(self, reading: Reading, pages: AsyncGenerator[Page]) -> AsyncGenerator[Page]:
        """The pages, as long as the reader may and takes them. More than one, or not the last, and the end is recorded
        as well. Raises as ``check``."""
        count, reading.left = 0, GONE
        failure: DomainError | None = None
        try:
            async with aclosing(pages):
                async for page in pages:
                    await self.check(reading)
                    count += 1
                    with _impatient(reading):
                        yield page
                    reading.sent += len(page[0])
            reading.left = ""
        except Exception as error:
            failure = error if isinstance(error, DomainError) else Internal()
            raise
        finally:
            if count > 1 or failure is not None or reading.left:
                self.end(reading, failure)

    def end(self, reading: Reading, failure: DomainError | None) -> None:
        """Records how it ended. Not waited for: whoever has gone waits for nothing."""
        task = asyncio.create_task(self._end(reading, failure))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def ended(self) -> None:
        """Returns when the ends of all readings are on record; to be waited for before the log stops."""
        while self._ending:
            await asyncio.wait(self._ending)

    async def _end(self, reading: Reading, failure: DomainError | None) -> None:
        refused = isinstance(failure, PermissionDenied | Unauthenticated) or (failure is None and bool(reading.left))
        event = Event(
            event_id=uuid7(),
            timestamp=self._clock.now(),
            event_type=EventType.ADMIN,
            action=reading.action,
            resource="audit",
            result=Result.FAILURE if refused else Result.SUCCESS if failure is None else Result.ERROR,
            error_message=failure.public_message if failure is not None else reading.left,
            metadata={"operator": reading.reader.peer, "events": str(reading.sent)},
            request_id=reading.reader.request_id,
            phase=Phase.OUTCOME,
            intent_id=reading.id,
        )
        try:
            await self._authorizer.record(event, reading.identity)
        except DomainError as error:
            log.error("the end of a reading is not recorded", reading=reading.id, reason=error.public_message)


@contextmanager
def _impatient(reading: Reading) -> Iterator[None]:
    """While a page is with its reader: cancels the call that does not take it."""
    task = asyncio.current_task()

    def give_up() -> None:
        reading.left = f"The reader took nothing for {STALLED:.0f} seconds."
        call = CURRENT.get(None)
        if call is not None and call.abandon is not None:
            # A cancelled handler says nothing to its peer, which would wait to the end of its own patience.
            call.abandon(DeadlineExceeded(f"{reading.left} Ask again for what is missing."))
        if task is not None:
            task.cancel(reading.left)

    timer = asyncio.get_running_loop().call_later(STALLED, give_up)
    try:
        yield
    finally:
        timer.cancel()
