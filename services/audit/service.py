"""The decisions of the audit service: what is recorded, as whose, and who may read it."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.audit import canonical
from services.audit.event import IDENTITY_FIELDS, Event, EventType, Identity, Phase, Result
from services.audit.intents import Intents
from services.audit.ports import Ack, Draft, Filter, Log, Policy, Principals, Record
from services.audit.writers import AUDIT, check_party, check_type
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import (
    DomainError,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
)
from services.common.ids import uuid7

DEFAULT_LIMIT = 100
MAX_LIMIT = 100_000
"""Records of one query at most; a cursor leads on."""

PAGE = 200
"""Records read and sent together."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: the certificate's SPIFFE path and the principal token beside it (R15)."""

    peer: str
    token: str
    request_id: str
    deadline: Deadline


class AuditService:
    """Takes events from their writers and gives records to readers that policy allows."""

    def __init__(self, log: Log, principals: Principals, policy: Policy, clock: Clock) -> None:
        self._log = log
        self._principals = principals
        self._policy = policy
        self._clock = clock
        self._intents = Intents(log, clock)
        self._tasks: set[asyncio.Task[Ack]] = set()

    async def append(self, writer: str, event: Event, token: str) -> Ack:
        """Records one event; returns when it is durable and in the tree.

        Raises:
            InvalidArgument: the event breaks its bounds or shape.
            PermissionDenied: the writer may not write this type (R22).
            Unauthenticated: a token was given and is not valid, or not the writer's to show (R5).
            FailedPrecondition: an outcome whose intent this writer never recorded, or recorded for something else,
                or so long ago that it is an orphan (R21).
            AlreadyExists: the writer used this event_id for another event, or the intent has another outcome.
            ResourceExhausted, Unavailable: it is not recorded, or not known to be.
        """
        event.check()
        check_type(writer, event)
        fields = event.fields(writer)
        if event.phase is Phase.OUTCOME:
            # Whoever gives up waiting does not take the outcome out of the queue, nor free its intent for another.
            task = asyncio.create_task(self._close(writer, event, fields))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            return await asyncio.shield(task)
        if event.phase is Phase.INTENT:
            self._intents.check(event)
        if token:
            try:
                identity = await self._principals.verify(token)
                check_party(writer, identity)
            except Unauthenticated:
                # Sent again after its token's end: the record that it made then still stands (R8).
                if ack := await self._recorded(writer, event, fields):
                    return ack
                raise
            fields = _as(identity.fields(), fields)
        return await self._log.append(Draft(fields, reserved=event.is_intent_or_outcome))

    async def _close(self, writer: str, event: Event, fields: dict[str, Any]) -> Ack:
        """R5: an outcome belongs to whom its intent belongs to, even after the token's end."""
        async with self._intents.closing(writer, event) as intended:
            return await self._log.append(Draft(_as(intended, fields), reserved=event.is_intent_or_outcome))

    def _ended(self, task: asyncio.Task[Ack]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Told to whoever still waits.

    async def _recorded(self, writer: str, event: Event, fields: dict[str, Any]) -> Ack | None:
        record = await self._log.find(writer, event.event_id)
        if record is None:
            return None
        stored = canonical.decode(record.canonical_json)
        ignored = IDENTITY_FIELDS | {"sequence"}
        same = _without(stored, ignored) == _without(fields, ignored)
        return Ack(event.event_id, record.sequence) if same else None

    async def query(
        self, reader: Reader, filter_: Filter, *, limit: int, descending: bool, cursor: str
    ) -> AsyncIterator[tuple[Sequence[Record], str]]:
        """Pages of records, each with the cursor that leads on (only the last page has one, where there is
        more). The query itself is recorded before the first page and is not among its answers.

        Raises:
            InvalidArgument: a cursor that no query of this order returned.
            Unauthenticated, PermissionDenied: R15.
            DomainError: the decision or the record of it could not be had.
        """
        size = self._log.size
        first, end = _span(cursor, size, descending=descending)
        await self._authorize(reader, "audit.Query", filter_)
        left = min(limit or DEFAULT_LIMIT, MAX_LIMIT)
        while True:
            # One record more than wanted tells whether there is a next page.
            count = min(left, PAGE)
            records = await self._log.page(filter_, first=first, end=end, limit=count + 1, descending=descending)
            more, records = len(records) > count, records[:count]
            left -= len(records)
            if records and descending:
                end = records[-1].sequence
            elif records:
                first = records[-1].sequence + 1
            if not more or not left:
                yield records, _cursor(first, end, descending=descending) if more else ""
                return
            yield records, ""

    async def tail(self, reader: Reader, filter_: Filter, from_sequence: int | None) -> AsyncIterator[Sequence[Record]]:
        """Records as they are committed, from a leaf index or from now on. Ends with the reader's token
        (R5): a client continues with a new token after the last sequence that it saw.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            DomainError: the decision or the record of it could not be had.
        """
        position = self._log.size if from_sequence is None else from_sequence
        identity = await self._authorize(reader, "audit.Tail", filter_)
        while True:
            size = self._log.size
            while position < size:
                records = await self._log.page(filter_, first=position, end=size, limit=PAGE, descending=False)
                position = records[-1].sequence + 1 if len(records) == PAGE else size
                if records:
                    yield records
            left = (identity.expires_at - self._clock.now()).total_seconds()
            try:
                async with asyncio.timeout(left):
                    await self._log.grown(position)
            except TimeoutError:
                return

    def checkpoint(self) -> str:
        """The newest signed tree head."""
        return self._log.checkpoint

    async def _authorize(self, reader: Reader, action: str, filter_: Filter) -> Identity:
        """Certificate AND token AND policy (R15); the reading is recorded, refused or not."""
        event = Event(
            event_id=uuid7(),
            timestamp=self._clock.now(),
            event_type=EventType.ADMIN,
            action=action,
            resource="audit",
            result=Result.SUCCESS,
            metadata={"operator": reader.peer, "permission": "kubegate:audit:read"}
            | {f"filter.{key}": value[:1024] for key, value in filter_.equal.items()},
            request_id=reader.request_id,
        )
        identity: Identity | None = None
        try:
            if not reader.token:
                raise Unauthenticated("Reading the audit log needs a principal token beside the certificate.")
            identity = await self._principals.verify(reader.token)
            check_party(reader.peer, identity)
            await self._policy.check_read(reader.token, reader.request_id, reader.deadline)
        except DomainError as error:
            refused = isinstance(error, PermissionDenied | Unauthenticated)
            event = replace(
                event,
                result=Result.FAILURE if refused else Result.ERROR,
                error_message=error.public_message,
            )
            await self._record_own(event, identity)
            raise
        await self._record_own(event, identity)
        return identity

    async def _record_own(self, event: Event, identity: Identity | None) -> None:
        event.check()
        fields = event.fields(AUDIT)
        await self._log.append(Draft(_as(identity.fields(), fields) if identity else fields))


def _as(identity: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The record with somebody's identity in place of what its writer asserted (R3 for the tenant)."""
    return _without(fields, IDENTITY_FIELDS) | identity


def _without(fields: dict[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}


def _cursor(first: int, end: int, *, descending: bool) -> str:
    return f"d{end}" if descending else f"a{first}"


def _span(cursor: str, size: int, *, descending: bool) -> tuple[int, int]:
    """The leaf indices [first, end) that a query may return."""
    if not cursor:
        return 0, size
    order, number = cursor[:1], cursor[1:]
    if order != ("d" if descending else "a") or not re.fullmatch("[0-9]{1,18}", number):
        raise InvalidArgument("The cursor is not of this query; start again without one.")
    return (0, min(int(number), size)) if descending else (int(number), size)
