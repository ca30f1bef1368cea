"""Counts decisions, refused tokens and changes of policy where they are recorded, so that number and record agree."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter

from services.authz.policy.model import Action, Allowed, Decision
from services.authz.policy.permissions import KINDS, KUBEGATE, SUBRESOURCE_VERBS
from services.authz.ports import Act, Caller, Phase, Recorder, Refusal, Verified
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.telemetry.bounded import UNKNOWN, Bounded, Closed
from services.common.telemetry.metrics import (
    AUTHORIZATION_CHECKS,
    POLICY_ADOPTED,
    POLICY_INFO,
    POLICY_RELOADS,
    SECURITY_VIOLATIONS,
)

USERS = 200
"""Users with a name of their own in metrics; all are in the record."""

_KIND = itemgetter(*map(Action._fields.index, ("group", "resource", "verb")))
_resource = Closed(kind.resource if kind.group != KUBEGATE else f"kubegate:{kind.resource}" for kind in KINDS)
_verb = Closed([*(verb for kind in KINDS for verb in kind.verbs), *SUBRESOURCE_VERBS.values()])


class CountedRecorder:
    """A Recorder before another one."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock
        self._user = Bounded(USERS)
        for result in ("adopted", "rejected"):
            POLICY_RELOADS.labels(result)

    async def decided(
        self,
        caller: Caller,
        token: str,
        verified: Verified,
        actions: Sequence[Action],
        decisions: Sequence[Decision],
        revision: str,
        milliseconds: float,
    ) -> str:
        user = self._user(verified.principal.user)
        try:
            event_id = await self._recorder.decided(caller, token, verified, actions, decisions, revision, milliseconds)
        except DomainError:
            _count(user, actions, ["error"] * len(actions))
            raise
        _count(user, actions, ["allowed" if isinstance(each, Allowed) else "denied" for each in decisions])
        return event_id

    async def refused(self, caller: Caller, refusal: Refusal) -> None:
        user = self._user(refusal.user)
        AUTHORIZATION_CHECKS.labels(user, UNKNOWN, UNKNOWN, "denied").inc()
        if refusal.violation:
            SECURITY_VIOLATIONS.labels("principal_token_of_another_peer", user).inc()
        await self._recorder.refused(caller, refusal)

    async def acted(
        self,
        act: Act,
        phase: Phase,
        deadline: Deadline,
        *,
        intent_id: str = "",
        error: str = "",
        ends_at: datetime | None = None,
    ) -> str:
        return await self._recorder.acted(act, phase, deadline, intent_id=intent_id, error=error, ends_at=ends_at)

    async def act_refused(self, act: Act, code: str, message: str) -> None:
        await self._recorder.act_refused(act, code, message)

    def policy_adopted(self, revision: str, previous: str) -> None:
        if previous:
            POLICY_RELOADS.labels("adopted").inc()
        POLICY_INFO.clear()
        POLICY_INFO.labels(revision).set(1)
        POLICY_ADOPTED.set(self._clock.now().timestamp())
        self._recorder.policy_adopted(revision, previous)

    def policy_rejected(self, revision: str, problems: Sequence[str]) -> None:
        POLICY_RELOADS.labels("rejected").inc()
        self._recorder.policy_rejected(revision, problems)


def _count(user: str, actions: Sequence[Action], results: Sequence[str]) -> None:
    # Those that count alike together: a batch asks the same of many places, and a metric's labels cost two decisions.
    alike = Counter(zip(map(_KIND, actions), results, strict=True))
    for ((group, resource, verb), result), count in alike.items():
        kind = _resource(resource if group != KUBEGATE else f"kubegate:{resource}")
        AUTHORIZATION_CHECKS.labels(user, kind, _verb(verb), result).inc(count)
