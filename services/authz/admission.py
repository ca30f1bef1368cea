"""Who may administer: an operator's certificate and a principal token that policy allows the verb (R15).

1. The peer's certificate is an operator's (the server has checked that), and the token was issued to it.
2. Policy allows the token's principal ``kubegate:<area>:<verb>``; the decision is recorded.
3. The act itself is recorded: a change as intent and outcome, a reading as one event.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from services.authz.policy.model import Action, Denied
from services.authz.policy.permissions import KUBEGATE
from services.authz.ports import Act, Caller, Phase, Recorder
from services.authz.service import AuthzService
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError, PermissionDenied
from services.common.recorded_changes import OUTCOME_PATIENCE, RecordedChanges, code_of, intent_ends

T = TypeVar("T")


class Admission:
    """Admits people to acts and records what they do."""

    def __init__(self, service: AuthzService, recorder: Recorder, clock: Clock) -> None:
        self._service = service
        self._recorder = recorder
        self._clock = clock
        self._changes = RecordedChanges()

    async def admit(self, caller: Caller, token: str, area: str, verb: str, resource: str = "") -> Act:
        """The act that the token's principal may now do.

        Raises:
            Unauthenticated: the token is not valid, or was issued to another peer.
            PermissionDenied: policy does not allow it.
            Unavailable: the decision could not be recorded.
        """
        started = self._clock.monotonic()
        action = Action(KUBEGATE, area, verb, tool=f"{area}.{verb}")
        verified = await self._service.identify(caller, token, [action])
        [answer] = await self._service.decide(caller, token, verified, [action], started)
        if isinstance(answer.decision, Denied):
            raise PermissionDenied(answer.decision.explanation)
        rests_on = {"authz_event_id": answer.event_id, "policy_revision": answer.revision}
        return Act(caller, verified.principal, token, f"{area}.{verb}", resource or area, rests_on)

    async def done(self, act: Act, **metadata: str) -> None:
        """Records a reading.

        Raises:
            Unavailable: it could not be recorded, so the answer is withheld.
        """
        await self._recorder.acted(_about(act, metadata), Phase.WHOLE, act.caller.deadline)

    async def refused(self, act: Act, error: DomainError) -> None:
        """Records that an admitted act was refused for what it asks; many of one kind become counted events (R25)."""
        await self._recorder.act_refused(act, code_of(error), error.public_message)

    async def change(
        self,
        act: Act,
        apply: Callable[[], Awaitable[T]],
        *,
        undo: Callable[[], Awaitable[object]] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> T:
        """Records the intent, applies the change, records the outcome; past the intent nobody can cancel it.

        ``undo`` takes back a change that widens what somebody may do where its outcome cannot be recorded.

        Raises:
            DomainError: as ``apply``; recorded.
            Unavailable: intent or outcome could not be recorded; nothing is changed.
            FailedPrecondition: the change stands and its outcome is not recorded.
        """
        act = _about(act, metadata or {})
        deadline = act.caller.deadline
        ends_at = intent_ends(self._clock.now(), deadline)
        intent_id = await self._recorder.acted(act, Phase.INTENT, deadline, ends_at=ends_at)

        def outcome(error: Exception | None) -> Awaitable[str]:
            said = code_of(error) if error else ""
            patience = Deadline.after(OUTCOME_PATIENCE)
            return self._recorder.acted(act, Phase.OUTCOME, patience, intent_id=intent_id, error=said)

        return await self._changes.carry_out(apply, outcome, undo)

    async def drain(self) -> None:
        """Waits for the changes that are under way."""
        await self._changes.drain()


def _about(act: Act, metadata: Mapping[str, str]) -> Act:
    return replace(act, metadata={**act.metadata, **{key: text for key, text in metadata.items() if text}})
