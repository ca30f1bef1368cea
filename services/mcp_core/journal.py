"""The core's own records: one for a read, two for a mutation, one for any other request (R18, R20).

An entry is opened when a call begins and closed before its answer leaves; it ends in a durable event whatever
happens in between. Until something better is known, a call's result is UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded, DomainError, Unavailable
from services.common.ids import uuid7
from services.common.log import get_logger
from services.mcp_core.errors import NotRecorded
from services.mcp_core.model import Caller, DecisionNote, Event, Kind, Phase, RequestContext, Result
from services.mcp_core.ports import Recorder
from services.mcp_core.redaction import redact

RECORD_SECONDS = 3.0
"""What a call keeps of its deadline for its record; also how long one append may take."""

OUTCOME_SECONDS = 20.0
"""How long the answer of something executed waits for its record, within the call's own time: longer than a restart of
the audit service takes."""

PERSIST_SECONDS = 120.0
"""How long the record of something executed is tried again after the answer was withheld (R20)."""

FIRST_PAUSE = 0.25
"""Seconds before the first of these trials; each pause doubles, up to five seconds."""

TALLY_SECONDS = 10.0
"""How long further requests over the limit of one source are counted before the count is recorded."""

MAX_TALLIES = 1024
"""Sources that are counted at once; the requests of others are recorded, and waited for, one by one."""

MAX_TEXT = 512
"""Longest text in an event, in characters. With the limits below an event is far from audit's own bounds."""

MAX_RULE = 2048
"""Longest list of policy rules in an event, in characters."""

MAX_NAME = 1024
"""Longest user, tenant or resource in an event, in characters."""

SCANNED = 16 * 1024
"""Characters of a text that are looked at at all; what is recorded is a small part of them."""

log = get_logger("journal")


@dataclass(slots=True)
class Entry:
    """The record of one call while it is being written.

    executing: from the moment when the cluster may act. made: all that was to be changed is, and the call only looks
    on. claim_id: of its idempotency key, if it took one. when_durable: what is to follow the durable outcome, and
    never fails.
    """

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
    made: bool = False
    intent_id: str = ""
    intent_append: asyncio.Task[None] | None = None
    kind: Kind = Kind.MCP_REQUEST
    claim_id: str = ""
    when_durable: Callable[[], Awaitable[None]] | None = None

    @property
    def may_have_changed(self) -> bool:
        """Whether the cluster may be different because of this call."""
        return self.mutation and self.executing and self.result in (Result.SUCCESS, Result.UNKNOWN)

    @property
    def left(self) -> str:
        """How a call that stayed open has left the cluster; "" for any other."""
        return self.metadata.get("left", "")

    def leaves(self, sentence: str, *, made: bool = False) -> None:
        """As ``tools.base.Leaves``."""
        self.metadata["left"] = sentence
        self.made = made


class Journal:
    """Writes entries. Appends run in tasks of their own, so that no cancelled request takes its record along."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tallies: dict[str, int] = {}
        self._closing = asyncio.Event()

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
        append = self._recorder.append(event, entry.caller.token, Deadline.after(RECORD_SECONDS))
        entry.intent_append = self._spawn(append)
        try:
            await asyncio.shield(entry.intent_append)
        except DomainError as error:
            raise _unrecorded("Nothing was executed", error, event.request_id) from error

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
            raise _unrecorded("The answer is withheld", error, entry.caller.context.request_id) from error

    def abandon(self, entry: Entry) -> None:
        """As ``close`` for a call whose caller no longer waits for an answer."""
        self._spawn(self._append(entry))

    async def anonymous(
        self,
        context: RequestContext,
        kind: Kind,
        action: str,
        result: Result,
        reason: str,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Records a refusal of somebody unknown; those of one source, action and reason fold into one event (R25).

        Neither action nor reason may hold input: ``details``, of the first of them, may.

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
            metadata={"auth_type": "none", "interface": context.interface}
            | {name: bounded(value) for name, value in (details or {}).items()},
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
            raise _unrecorded("The request was refused", error, context.request_id) from error

    async def throttled(self, context: RequestContext, source: str, reason: str) -> None:
        """Records a request over the limit of its source: the first at once, those that follow as one count (R25).

        Raises:
            Unavailable: the first is not known to be durable.
        """
        if source in self._tallies:
            self._tallies[source] += 1
            return
        if len(self._tallies) < MAX_TALLIES:
            self._tallies[source] = 0
            self._spawn(self._tally(context, source, reason))
        await self.anonymous(context, Kind.AUTHENTICATION, "authenticate", Result.FAILURE, reason)

    async def _tally(self, context: RequestContext, source: str, reason: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TALLY_SECONDS):
                await self._closing.wait()
        count = self._tallies.pop(source)
        if count:
            details = {"throttled": str(count)}
            await self.anonymous(context, Kind.AUTHENTICATION, "authenticate", Result.FAILURE, reason, details)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """A record that nobody waits for; where it fails, that is logged."""
        self._spawn(work)

    async def drain(self, seconds: float) -> None:
        """Waits for appends in flight and what they start; what is not acknowledged by then is logged as lost."""
        self._closing.set()
        end = asyncio.get_running_loop().time() + seconds
        while self._tasks and (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        late = set(self._tasks)
        if late:
            log.error("records lost at shutdown", count=len(late))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _append(self, entry: Entry) -> None:
        if entry.intent_append is not None:
            # Whatever became of the call: no outcome overtakes its intent.
            await asyncio.wait({entry.intent_append})
        phase = Phase.OUTCOME if entry.intent_id else Phase.WHOLE
        event = self._event(entry, phase, uuid7())
        give_up = min(entry.caller.context.deadline.at, Deadline.after(OUTCOME_SECONDS).at)
        pause = FIRST_PAUSE
        while True:
            try:
                await self._recorder.append(event, entry.caller.token, Deadline.after(RECORD_SECONDS))
                break
            except DomainError as error:
                log.warning(
                    "record not durable", request_id=event.request_id, code=error.code.name, reason=error.public_message
                )
                if not entry.may_have_changed:
                    raise
                if Deadline(give_up).remaining() < pause:
                    self._spawn(self._persist(event, entry))
                    raise
            await asyncio.sleep(pause)
            pause *= 2
        if entry.when_durable is not None:
            await entry.when_durable()

    async def _persist(self, event: Event, entry: Entry) -> None:
        give_up = self._clock.monotonic() + PERSIST_SECONDS
        pause = FIRST_PAUSE
        while self._clock.monotonic() < give_up:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
            try:
                await self._recorder.append(event, entry.caller.token, Deadline.after(RECORD_SECONDS))
            except DomainError:
                continue
            if entry.when_durable is not None:
                await entry.when_durable()
            log.info("record durable after all", request_id=event.request_id, event_id=event.event_id)
            return
        log.error("record of an executed call lost", request_id=event.request_id, intent_id=event.intent_id)

    def _event(self, entry: Entry, phase: Phase, event_id: str) -> Event:
        context = entry.caller.context
        now = self._clock.now()
        intent = phase is Phase.INTENT
        decision = entry.decision
        if decision is not None:
            decision = replace(decision, rule=bounded(decision.rule, MAX_RULE), revision=bounded(decision.revision))
        return Event(
            event_id=event_id,
            timestamp=now,
            kind=entry.kind,
            user=bounded(entry.caller.principal.user, MAX_NAME),
            action=entry.action,
            resource=bounded(entry.resource, MAX_NAME),
            namespace=bounded(entry.namespace),
            result=Result.UNKNOWN if intent else entry.result,
            error=bounded(entry.error),
            metadata={key: bounded(value) for key, value in entry.metadata.items() if value},
            duration_ms=round((self._clock.monotonic() - entry.opened_at) * 1000, 3),
            tenant=bounded(entry.caller.principal.tenant, MAX_NAME),
            source=context.source,
            request_id=context.request_id,
            trace_id=context.trace_id,
            phase=phase,
            decision=decision,
            intent_id="" if intent else entry.intent_id,
            deadline=now + timedelta(seconds=max(context.deadline.remaining(), 0)) if intent else None,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Where nobody waits any more: a failure has been logged and, where it matters, is being retried.
        if not task.cancelled():
            task.exception()


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """The text as an event may hold it: without secrets, on one line, without characters that a terminal obeys or
    that turn the direction of writing, and cut to ``limit`` characters.

    What such characters split is put together before secrets are looked for.
    """
    cut = text[:SCANNED]
    if not cut.isprintable():
        joined = "".join(filter(str.isprintable, cut.replace("\n", " ").replace("\t", " ")))
        clean = redact(joined)
        if clean == joined:
            clean = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in cut)
    else:
        clean = redact(cut)
    if len(text) > SCANNED:
        clean = clean[:-256]  # The cut may have gone through a secret.
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _unrecorded(consequence: str, error: DomainError, request_id: str) -> Unavailable:
    log.error("record failed", request_id=request_id, code=error.code.name, reason=error.public_message)
    away = isinstance(error, Unavailable | DeadlineExceeded)
    why = "because the audit service is away" if away else "since the audit service did not take it"
    return Unavailable(
        f"The record could not be made durable {why}. {consequence}. Try again shortly.",
        retry_after=error.retry_after or 1.0,
    )
