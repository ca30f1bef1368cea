"""The core's own records: one for a read, two for a mutation, one for any other request (R18, R20).

An entry is opened when a call begins and closed before its answer leaves; it ends in a durable event whatever
happens in between. Until something better is known, a call's result is UNKNOWN.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError, Unavailable
from services.common.ids import uuid7
from services.common.log import get_logger
from services.mcp_core.errors import NotRecorded
from services.mcp_core.model import Caller, DecisionNote, Event, Kind, Phase, RequestContext, Result
from services.mcp_core.ports import Recorder
from services.mcp_core.redaction import redact

RECORD_SECONDS = 3.0
"""What a call keeps of its deadline for its record; also how long one append may take."""

PERSIST_SECONDS = 120.0
"""How long the record of something executed is tried again after the answer was withheld (R20)."""

FIRST_PAUSE = 0.25
"""Seconds before the first of these trials; each pause doubles, up to five seconds."""

MAX_TEXT = 512
"""Longest text in an event, in characters."""

log = get_logger("journal")


@dataclass(slots=True)
class Entry:
    """The record of one call while it is being written. ``executing``: from the moment when the cluster may act."""

    caller: Caller
    action: str
    opened_at: float
    resource: str = ""
    namespace: str = ""
    result: Result = Result.UNKNOWN
    error: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    decision: DecisionNote | None = None
    mutation: bool = False
    executing: bool = False
    intent_id: str = ""

    @property
    def may_have_changed(self) -> bool:
        """Whether the cluster may be different because of this call."""
        return self.mutation and self.executing and self.result in (Result.SUCCESS, Result.UNKNOWN)


class Journal:
    """Writes entries. Appends run in tasks of their own, so that no cancelled request takes its record along."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self, caller: Caller, action: str) -> Entry:
        """Begins the record of a call."""
        metadata = {
            "auth_type": caller.principal.auth_type,
            "credential_id": caller.principal.credential_id,
            "interface": caller.context.interface,
            "authn_event_id": caller.authn_event_id,
        }
        if caller.cached:
            metadata["cached"] = "true"
        return Entry(caller, bounded(action, 128), self._clock.monotonic(), metadata=metadata)

    async def intent(self, entry: Entry) -> None:
        """Makes the intent of a mutation durable: nothing is executed before this returns (step 4).

        Raises:
            Unavailable: it is not known to be durable; nothing may be executed.
        """
        entry.intent_id = uuid7()
        event = self._event(entry, Phase.INTENT, entry.intent_id)
        try:
            await self._recorder.append(event, entry.caller.token, Deadline.after(RECORD_SECONDS))
        except DomainError as error:
            raise _unrecorded("Nothing was executed", error) from error

    async def close(self, entry: Entry) -> None:
        """Makes the outcome durable; an answer may leave only after this returned (step 6).

        Cancelling the caller does not cancel the append.

        Raises:
            NotRecorded: something may have been executed; the append goes on in the background (R20).
            Unavailable: nothing was changed; the answer is withheld.
        """
        try:
            await asyncio.shield(self._spawn(self._append(entry)))
        except DomainError as error:
            if entry.may_have_changed:
                raise NotRecorded(entry.caller.context.request_id) from error
            raise _unrecorded("The answer is withheld", error) from error

    def abandon(self, entry: Entry) -> None:
        """As ``close`` for a call whose caller no longer waits for an answer."""
        task = self._spawn(self._append(entry))
        # Its failure has been logged and, where it matters, is being retried.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def anonymous(self, context: RequestContext, kind: Kind, action: str, result: Result, reason: str) -> None:
        """Records a refusal of somebody unknown; those of one source and reason fold into one event (R25).

        Raises:
            Unavailable: it is not known to be durable.
        """
        event = Event(
            event_id=uuid7(),
            timestamp=self._clock.now(),
            kind=kind,
            user="",
            action=bounded(action, 128),
            resource="",
            namespace="",
            result=result,
            error=bounded(reason),
            metadata={"auth_type": "none", "interface": context.interface},
            duration_ms=0.0,
            tenant="",
            source=context.source,
            request_id=context.request_id,
            trace_id=context.trace_id,
        )
        key = (kind, context.source.address, action, reason)
        try:
            await self._recorder.append_folded(key, event, Deadline.after(RECORD_SECONDS))
        except DomainError as error:
            raise _unrecorded("The request was refused", error) from error

    async def drain(self, seconds: float) -> None:
        """Waits for appends in flight; what is not acknowledged by then is logged as lost."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                log.error("records lost at shutdown", count=len(late))

    async def _append(self, entry: Entry) -> None:
        phase = Phase.OUTCOME if entry.intent_id else Phase.WHOLE
        event = self._event(entry, phase, uuid7())
        try:
            await self._recorder.append(event, entry.caller.token, Deadline.after(RECORD_SECONDS))
        except DomainError as error:
            log.warning("record not durable", request_id=event.request_id, reason=error.public_message)
            if entry.may_have_changed:
                self._spawn(self._persist(event, entry.caller.token))
            raise

    async def _persist(self, event: Event, token: str) -> None:
        give_up = self._clock.monotonic() + PERSIST_SECONDS
        pause = FIRST_PAUSE
        while self._clock.monotonic() < give_up:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
            try:
                await self._recorder.append(event, token, Deadline.after(RECORD_SECONDS))
            except DomainError:
                continue
            log.info("record durable after all", request_id=event.request_id, event_id=event.event_id)
            return
        log.error("record of an executed call lost", request_id=event.request_id, intent_id=event.intent_id)

    def _event(self, entry: Entry, phase: Phase, event_id: str) -> Event:
        context = entry.caller.context
        now = self._clock.now()
        intent = phase is Phase.INTENT
        return Event(
            event_id=event_id,
            timestamp=now,
            kind=Kind.MCP_REQUEST,
            user=entry.caller.principal.user,
            action=entry.action,
            resource=entry.resource,
            namespace=entry.namespace,
            result=Result.UNKNOWN if intent else entry.result,
            error=bounded(redact(entry.error)),
            metadata={key: bounded(value) for key, value in entry.metadata.items() if value},
            duration_ms=round((self._clock.monotonic() - entry.opened_at) * 1000, 3),
            tenant=entry.caller.principal.tenant,
            source=context.source,
            request_id=context.request_id,
            trace_id=context.trace_id,
            phase=phase,
            decision=entry.decision,
            intent_id="" if intent else entry.intent_id,
            deadline=now + timedelta(seconds=max(context.deadline.remaining(), 0)) if intent else None,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """The text, cut where it is longer than an event may hold, and fit for UTF-8 (JSON may escape half a pair)."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _unrecorded(consequence: str, error: DomainError) -> Unavailable:
    return Unavailable(
        f"The record could not be made durable because the audit service is away. {consequence}. Try again shortly.",
        retry_after=error.retry_after or 1.0,
    )
