"""The decisions of the audit service on what is recorded, and as whose. Reading is decided in ``reading``."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

from services.audit import canonical
from services.audit.event import IDENTITY_FIELDS, Event, Identity, Phase, rfc3339
from services.audit.intents import Intents
from services.audit.masking import Masker
from services.audit.ports import Ack, Draft, Log, Principals
from services.audit.writers import capacity, check_party, check_type
from services.common.clock import Clock
from services.common.errors import DomainError, InvalidArgument, Unauthenticated

SKEW = timedelta(hours=24)
"""Between the time of an event and its recording, at most: appends are sent again for minutes, clocks differ less."""

Item = tuple[Event, str]
"""An event and the principal token beside it, or no token."""

_Answers = Sequence[Ack | DomainError]


class AuditService:
    """Takes events from their writers."""

    def __init__(self, log: Log, principals: Principals, masker: Masker, clock: Clock) -> None:
        self._log = log
        self._principals = principals
        self._masker = masker
        self._clock = clock
        self._intents = Intents(log, clock)
        self._tasks: set[asyncio.Task[_Answers]] = set()

    async def append(self, writer: str, event: Event, token: str) -> Ack:
        """Records one event; returns when it is durable and in the tree.

        Raises:
            InvalidArgument: the event breaks its bounds or shape, or is dated far from now.
            PermissionDenied: the writer may not write this type (R22).
            Unauthenticated: a token was given and is not valid, or not the writer's to show (R5).
            FailedPrecondition: an outcome whose intent this writer never recorded, or recorded for something else,
                or so long ago that it is an orphan (R21).
            AlreadyExists: the writer used this event_id for another event, or the intent has another outcome.
            ResourceExhausted, Unavailable: it is not recorded, or not known to be.
        """
        (answer,) = await self._group((writer, [(event, token)]))
        if isinstance(answer, DomainError):
            raise answer
        return answer

    def append_all(self, writer: str, items: Sequence[Item]) -> Sequence[tuple[Sequence[int], Awaitable[_Answers]]]:
        """Records events that came together: indices of items, and what will answer them in that order.

        Those that wait for the same thing are one group, so that none waits for another's token or intent
        (R8), and a group is one commit. Answers are those of ``append``.
        """
        groups: dict[tuple[str, str], list[int]] = {}
        for index, (event, token) in enumerate(items):
            key = ("intent", event.intent_id) if event.phase is Phase.OUTCOME else ("token", token)
            groups.setdefault(key, []).append(index)
        return [(indices, self._group((writer, [items[index] for index in indices]))) for indices in groups.values()]

    async def _group(self, group: tuple[str, Sequence[Item]]) -> _Answers:
        """Items with the same token, or outcomes of the same intent."""
        first, _ = group[1][0]
        if first.phase is not Phase.OUTCOME:
            return await self._append(group)
        # Whoever gives up waiting does not take the outcome out of the queue, nor free its intent for another.
        task = asyncio.create_task(self._append(group))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[_Answers]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Told to whoever still waits.

    async def _append(self, group: tuple[str, Sequence[Item]]) -> _Answers:
        writer, items = group
        answers: list[Ack | DomainError | None] = [None] * len(items)
        drafts: list[tuple[int, Draft]] = []
        identity: Mapping[str, Any] | DomainError | None = None
        now = self._clock.now()
        async with AsyncExitStack() as closing:
            for index, (event, token) in enumerate(items):
                try:
                    event.check()
                    _check_time(event, now)
                    check_type(writer, event)
                    fields = self._masker.mask(event.fields(writer))
                    if event.phase is Phase.OUTCOME:
                        # R5: it belongs to whom its intent belongs to, even after the token's end.
                        intended = await closing.enter_async_context(self._intents.closing(writer, event))
                        drafts.append((index, Draft(as_identity(intended, fields), capacity(writer, event))))
                        continue
                    if event.phase is Phase.INTENT:
                        self._intents.check(event)
                    if token:
                        if identity is None:
                            identity = await self._identity(writer, token)
                        if isinstance(identity, DomainError):
                            answers[index] = await self._recorded(writer, event, fields, identity)
                            continue
                        fields = as_identity(identity, fields)
                    drafts.append((index, Draft(fields, capacity(writer, event))))
                except DomainError as error:
                    answers[index] = error
            stored = await self._log.append_all([draft for _, draft in drafts]) if drafts else ()
        for (index, _), answer in zip(drafts, stored, strict=True):
            answers[index] = answer
        return [answer for answer in answers if answer is not None]

    async def _identity(self, writer: str, token: str) -> Mapping[str, Any] | DomainError:
        try:
            identity: Identity = await self._principals.verify(token)
            check_party(writer, identity)
        except DomainError as error:
            return error
        return identity.fields()

    async def _recorded(
        self, writer: str, event: Event, fields: dict[str, Any], error: DomainError
    ) -> Ack | DomainError:
        """Sent again after its token's end: the record that it made then still stands (R8). Else the error."""
        if not isinstance(error, Unauthenticated):
            return error
        record = await self._log.find(writer, event.event_id)
        if record is None:
            return error
        stored = canonical.decode(record.canonical_json)
        ignored = IDENTITY_FIELDS | {"sequence"}
        same = _without(stored, ignored) == _without(fields, ignored)
        return Ack(event.event_id, record.sequence) if same else error


def _check_time(event: Event, now: datetime) -> None:
    """Whoever looks for a time must find what was recorded then: no writer may date an event out of sight."""
    if abs(event.timestamp - now) > SKEW:
        raise InvalidArgument(
            f"timestamp must lie within {SKEW // timedelta(hours=1)} hours of audit's clock, {rfc3339(now)}; correct "
            "the writer's clock, or put another time into the metadata."
        )


def as_identity(identity: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record with somebody's identity in place of what its writer asserted (R3 for the tenant)."""
    record = {**fields, **identity}
    if "tenant" in fields and "tenant" not in identity:
        del record["tenant"]
    return record


def _without(fields: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in keys}
