"""Following the log as it grows: a reading that lasts until its token ends (R5, R19). A tail is two records, its begin
and its end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from services.audit.authorizing import Reader, within
from services.audit.bounded import next_page
from services.audit.lasting import Lasting, Reading
from services.audit.ports import Filter, Log, Record
from services.audit.slots import Slots
from services.common.clock import Clock
from services.common.errors import DomainError

PAUSE = 0.1
"""Seconds between two looks of a tail at a log that grows: a look for every commit would cost the writers more than
their commits."""

IDLE = 0.5
"""Seconds between two looks at whether the reader still may, where nothing comes."""


class AuditTailing:
    """Gives new records to readers that policy allows."""

    def __init__(self, log: Log, lasting: Lasting, clock: Clock) -> None:
        self._log, self._lasting, self._clock = log, lasting, clock
        self._slots = Slots("Tails", total=64, each=16)

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
            tail = await self._lasting.begin(reader, "audit.Tail", filter_.described())
            failure: DomainError | None = None
            try:
                async for records in self._records(tail, within(tail.identity, filter_), position, stopping):
                    tail.sent += len(records)
                    yield records
            except DomainError as error:
                failure = error
                raise
            finally:
                self._lasting.end(tail, failure)

    async def _records(
        self, tail: Reading, filter_: Filter, position: int, stopping: asyncio.Event | None
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

    async def _may_go_on(self, tail: Reading, *, sending: bool) -> bool:
        """Whether the token still counts. Raises as ``follow`` where the reader may read no longer."""
        if self._clock.now() < tail.identity.expires_at:
            await self._lasting.check(tail, sending=sending)
        return self._clock.now() < tail.identity.expires_at
