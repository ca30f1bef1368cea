"""How an administrative act is recorded: its refusal, its reading, its change with intent and outcome (R18)."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.authn.entry import Entry, Kind, Phase, Result
from services.authn.model import Decision, Principal
from services.authn.ports import Recorder
from services.common.call import Call
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.recorded_changes import OUTCOME_PATIENCE, RecordedChanges, code_of, intent_ends

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator is doing. ``user`` is the person, or the operator's certificate where no person is known."""

    call: Call
    action: str
    resource: str
    started: float
    user: str
    tenant: str = ""
    token: str = field(default="", repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def by(self, principal: Principal, token: str) -> "Act":
        """The same, of a person whom ``token`` proves."""
        return replace(self, user=principal.user, tenant=principal.tenant, token=token)

    def about(self, details: Mapping[str, str]) -> "Act":
        """The same, with more to record."""
        return replace(self, metadata={**self.metadata, **{key: text for key, text in details.items() if text}})

    def decided(self, decision: Decision) -> "Act":
        """The same, with the policy decision that it rests on."""
        return self.about({"rule": decision.rule, "policy_revision": decision.policy_revision})


class Journal:
    """Records acts; every method returns when the record is durable."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock
        self._changes = RecordedChanges()

    def act(self, call: Call, action: str, resource: str) -> Act:
        """An act that begins now."""
        return Act(call, action, resource, self._clock.monotonic(), user=call.peer)

    async def refused(self, act: Act, reason: str) -> None:
        """Records a refusal; ``reason`` is a fixed category. A flood of them becomes counted events (R25)."""
        key = ("admin", act.call.peer, act.action, act.user, reason)
        await self._recorder.append_folded(key, self._entry(act, Result.FAILURE, error=reason), act.call.deadline)

    async def refusing(self, act: Act, check: Callable[[], T]) -> T:
        """What ``check`` returns; if it refuses the request, that is recorded before it is answered."""
        try:
            return check()
        except DomainError as error:
            await self.refused(act, code_of(error))
            raise

    async def done(self, act: Act) -> None:
        """Records a reading."""
        await self._recorder.append(self._entry(act, Result.SUCCESS), act.call.deadline, act.token)

    async def change(
        self,
        act: Act,
        apply: Callable[[], Awaitable[T]],
        *,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Records the intent, applies the change, records the outcome; past the intent nobody can cancel it.

        ``undo`` takes the change back where its outcome cannot be recorded; without it the change stands, and
        the caller is told so.

        Raises:
            Unavailable: intent or outcome could not be recorded, or the change not be made; nothing is changed.
            FailedPrecondition: the change is made and its outcome not recorded; not to be repeated (R20).
        """
        deadline = act.call.deadline
        intent = replace(
            self._entry(act, Result.UNKNOWN, phase=Phase.INTENT), ends_at=intent_ends(self._clock.now(), deadline)
        )
        intent_id = await self._recorder.append(intent, deadline, act.token)

        async def outcome(error: Exception | None) -> None:
            if error is None:
                await self._outcome(act, intent_id, Result.SUCCESS)
            else:
                await self._outcome(act, intent_id, Result.ERROR, code_of(error))

        return await self._changes.carry_out(apply, outcome, undo)

    async def _outcome(self, act: Act, intent_id: str, result: Result, error: str = "") -> None:
        entry = replace(self._entry(act, result, phase=Phase.OUTCOME, error=error), intent_id=intent_id)
        await self._recorder.append(entry, Deadline.after(OUTCOME_PATIENCE), act.token)

    def _entry(self, act: Act, result: Result, *, phase: Phase = Phase.WHOLE, error: str = "") -> Entry:
        return Entry(
            kind=Kind.ADMIN,
            action=act.action,
            result=result,
            user=act.user,
            tenant=act.tenant,
            resource=act.resource,
            error=error,
            metadata={"operator": act.call.peer, **act.metadata},
            request_id=act.call.request_id,
            duration_ms=(self._clock.monotonic() - act.started) * 1000,
            phase=phase,
        )

    async def drain(self) -> None:
        """Waits for the changes that are under way."""
        await self._changes.drain()
