"""The decisions of the audit service on who may read what, and the record of every reading.

A reader needs an operator's certificate, a principal token issued to it, and a policy that allows
``kubegate:audit:read`` (R15): that permission alone makes an auditor, who can do nothing else. A reader who
belongs to a tenant reads only what is its tenant's (R13), and no proof over the whole log.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.audit import canonical
from services.audit.authorizing import ATTEST, Authorizer, Reader, within
from services.audit.bounded import PAGE, next_page
from services.audit.event import Event, EventType, Result
from services.audit.lasting import Lasting
from services.audit.masking import Masker
from services.audit.ports import Count, Draft, Filter, Log, Proof, Record
from services.audit.receipt import receipt
from services.audit.service import as_identity
from services.audit.slots import Slots
from services.audit.writers import AUDIT
from services.common.clock import Clock
from services.common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
)
from services.common.ids import uuid7

DEFAULT_LIMIT = 100
MAX_LIMIT = 100_000
"""Records of one query at most; a cursor leads on."""

SEARCHING = 20.0
"""Seconds that a query looks on without finding anything; then its cursor leads on, if it is wanted."""

MAX_COUNTS = 10_000
"""Rows of one statistic at most."""

_MOMENT = ("timestamp", "request_id", "principal")
"""What differs when the same attestation is sent again."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a person did about a control."""

    event_id: str
    framework: str
    control: str
    action: str
    resource: str
    result: Result
    details: Mapping[str, str]


class AuditReading:
    """Gives records to readers that policy allows."""

    def __init__(self, log: Log, authorizer: Authorizer, lasting: Lasting, clock: Clock, masker: Masker) -> None:
        self._log, self._authorizer, self._lasting = log, authorizer, lasting
        self._clock, self._masker = clock, masker
        self._readings = Slots("Readings", total=32, each=8)

    async def query(
        self, reader: Reader, filter_: Filter, *, limit: int, descending: bool, cursor: str
    ) -> AsyncGenerator[tuple[Sequence[Record], str]]:
        """Pages of records, each with the cursor that leads on (only the last page has one, where there is
        more, or where the log is not searched to its end). The query itself is recorded before the first page and is
        not among its answers.

        Raises:
            InvalidArgument: a cursor that no query of this order returned.
            Unauthenticated, PermissionDenied: R15.
            ResourceExhausted: too many readings are under way.
            DomainError: the decision or the record of it could not be had.
        """
        with self._readings.of(reader.peer):
            bounds = await self._log.bounds()
            # A foreign cursor is refused before anything is recorded.
            await self._log.search(Filter(), cursor=cursor, bounds=bounds, limit=1, descending=descending)
            reading = await self._lasting.begin(reader, "audit.Query", filter_.described())
            filter_ = within(reading.identity, filter_)
            bounds = await self._log.narrowed(bounds, filter_)
            found = self._found(filter_, bounds, min(limit or DEFAULT_LIMIT, MAX_LIMIT), cursor, descending=descending)
            async with aclosing(self._lasting.over(reading, found)) as pages:
                async for page in pages:
                    yield page

    async def _found(
        self, filter_: Filter, bounds: str, left: int, cursor: str, *, descending: bool
    ) -> AsyncGenerator[tuple[Sequence[Record], str]]:
        give_up = self._clock.monotonic() + SEARCHING
        while True:
            count = min(left, PAGE)
            found = await self._log.search(filter_, cursor=cursor, bounds=bounds, limit=count, descending=descending)
            cursor = found.cursor
            left -= len(found.records)
            if not cursor or not left or (not found.records and self._clock.monotonic() >= give_up):
                yield found.records, cursor
                return
            if found.records:
                yield found.records, ""
                give_up = self._clock.monotonic() + SEARCHING

    async def export(
        self, reader: Reader, filter_: Filter, *, proofs: bool
    ) -> AsyncGenerator[tuple[Sequence[Record], Sequence[Proof]]]:
        """Everything of this log under the signed root of this moment that the filter finds, oldest first, with
        a proof for each record where asked: the same signed root in all of them. Pages may be empty: a sign that the
        search goes on.

        Raises:
            Unauthenticated, PermissionDenied: R15; also for proofs that a tenant's reader asks for, and later on, as
                ``query``.
            DomainError: the decision or the record of it could not be had.
        """
        described = {**filter_.described(), "proofs": str(proofs).lower()}
        with self._readings.of(reader.peer):
            size, checkpoint = self._log.size, self._log.checkpoint
            reading = await self._lasting.begin(reader, "audit.Export", described, whole_log=proofs)
            filter_ = within(reading.identity, filter_)
            exported = self._exported(filter_, size, checkpoint if proofs else "")
            async with aclosing(self._lasting.over(reading, exported)) as pages:
                async for page in pages:
                    yield page

    async def _exported(
        self, filter_: Filter, size: int, checkpoint: str
    ) -> AsyncGenerator[tuple[Sequence[Record], Sequence[Proof]]]:
        """checkpoint: that the proofs lead to; "" for none."""
        position = 0
        if not size:
            yield (), ()
        while position < size:
            records, position = await next_page(self._log, filter_, position, size)
            found: Sequence[Proof] = ()
            if checkpoint and records:
                hashes = await self._log.inclusions([record.sequence for record in records], size)
                found = [Proof(each, checkpoint) for each in hashes]
            yield records, found

    async def stats(self, reader: Reader, filter_: Filter, by: Sequence[str], bucket_seconds: int) -> Sequence[Count]:
        """Counts for plots.

        Raises:
            InvalidArgument: more than ``MAX_COUNTS`` rows, or a column named twice.
            Unauthenticated, PermissionDenied: R15.
        """
        if len(set(by)) != len(by):
            raise InvalidArgument("Each field can be counted by once.")
        asked = {"by": ",".join(by), "bucket_seconds": str(bucket_seconds)}
        with self._readings.of(reader.peer):
            identity = await self._authorizer.authorize(reader, "audit.Stats", {**filter_.described(), **asked})
            counts = await self._log.count(within(identity, filter_), by, bucket_seconds, MAX_COUNTS + 1)
        if len(counts) > MAX_COUNTS:
            raise InvalidArgument(f"That is more than {MAX_COUNTS} counts; restrict the time or widen the span.")
        return counts

    async def inclusion(self, reader: Reader, sequence: int) -> tuple[Record, Proof]:
        """A record and how it leads to the newest signed root. Raises as ``query``, and NotFound."""
        with self._readings.of(reader.peer):
            asked = {"sequence": str(sequence)}
            await self._authorizer.authorize(reader, "audit.GetInclusionProof", asked, whole_log=True)
            return await self._log.inclusion(sequence)

    async def consistency(self, reader: Reader, old_size: int) -> Proof:
        """How the newest tree extends an earlier one: hashes only, open to whoever may see the signed root."""
        with self._readings.of(reader.peer):
            return await self._log.consistency(old_size)

    async def receipt(self, reader: Reader, writer: str, event_id: str) -> str:
        """The .tlog-proof of an event: a writer's own, or any event for a reader.

        Raises:
            NotFound: there is no such event, or it is another's.
            Unauthenticated, PermissionDenied: R15.
        """
        with self._readings.of(reader.peer):
            return await self._receipt(reader, writer, event_id)

    async def _receipt(self, reader: Reader, writer: str, event_id: str) -> str:
        if reader.peer.startswith("operator/"):
            asked = {"writer": writer[:1024], "event_id": event_id[:1024]}
            await self._authorizer.authorize(reader, "audit.GetReceipt", asked, whole_log=True)
        elif writer not in ("", reader.peer):
            raise NotFound("There is no such event of yours.")
        record = await self._log.find(writer or reader.peer, event_id)
        if record is None:
            elsewhere = f"{writer} recorded no such event; name the one that did, its `writer`."
            raise NotFound(elsewhere if writer else "There is no such event of yours.")
        if record.log_id:
            raise NotFound(f"That event lies in the log {record.log_id}; ask the audit service that owns it.")
        return receipt(*await self._log.inclusion(record.sequence))

    def checkpoint(self) -> str:
        """The newest signed tree head."""
        return self._log.checkpoint

    async def attest(self, reader: Reader, attestation: Attestation) -> tuple[str, int]:
        """Records what a person did about a control, as that person; the event's id and leaf index.

        Raises:
            InvalidArgument: the event breaks its bounds.
            Unauthenticated, PermissionDenied: R15, with ``kubegate:audit:attest``.
            DomainError: the decision or the record could not be had.
        """
        event = Event(
            event_id=attestation.event_id or uuid7(),
            timestamp=self._clock.now(),
            event_type=EventType.COMPLIANCE,
            action=attestation.action,
            resource=attestation.resource,
            result=attestation.result,
            metadata={
                **attestation.details,
                "operator": reader.peer,
                "framework": attestation.framework,
                "control": attestation.control,
            },
            request_id=reader.request_id,
        )
        event.check()
        if not (attestation.framework and attestation.control):
            raise InvalidArgument("A compliance event names its framework and its control.")
        described = {"framework": attestation.framework[:1024], "control": attestation.control[:1024]}
        identity = await self._authorizer.authorize(reader, "audit.LogComplianceEvent", described, ATTEST)
        fields = as_identity(identity.fields(), self._masker.mask(event.fields(AUDIT)))
        if known := await self._log.find(AUDIT, event.event_id):
            # Sent again under its id it is the same event, whenever that is (R8).
            stored = canonical.decode(known.canonical_json)
            if any(stored.get(name) != value for name, value in fields.items() if name not in _MOMENT):
                raise AlreadyExists(f"Another event is recorded under the id {event.event_id}.")
            return event.event_id, known.sequence
        ack = await self._log.append(Draft(fields))
        return ack.event_id, ack.sequence
