"""The audit log as authz writes it: decisions, refused tokens, and changes of policy (R18, R22)."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime

from kubegate.audit.v1 import audit_pb2
from kubegate.common.v1 import identity_pb2
from services.authz.policy.model import Action, Allowed, Decision, Denied, Reason
from services.authz.ports import Act, Caller, Phase, Refusal, Verified
from services.common.audit_client import AuditClient
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.log import Outage, get_logger

WRITER = "service/authz"
MAX_TEXT = 256
MAX_PROBLEMS = 2_000
"""Characters of a value that came from a caller, and of a list of problems, in a record."""

MAX_NOTE = 1_000
"""Characters of a note about an administrative act, such as its justification."""

MAX_PART = 4_000
"""Characters of one part of a batch's decisions: audit takes values of 4,096."""

MAX_IMPOSSIBLE = 48
"""Characters of each value of an impossible action in the record of a batch."""

TABS = 8
"""Between the values of a batch's decision; a ninth is a caller's."""

_PHASES = {
    Phase.WHOLE: audit_pb2.PHASE_UNSPECIFIED,
    Phase.INTENT: audit_pb2.PHASE_INTENT,
    Phase.OUTCOME: audit_pb2.PHASE_OUTCOME,
}

_RETRY = 1.0

log = get_logger("authz")


class AuditLog:
    """Writes through the shared audit client."""

    def __init__(self, audit: AuditClient) -> None:
        self._audit = audit
        self._pending: set[asyncio.Task[None]] = set()

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
        """Records one or more decisions durably, as one event, and returns the event's id."""
        principal = verified.principal
        allowed = all(isinstance(each, Allowed) for each in decisions)
        event = audit_pb2.Event(
            event_type=audit_pb2.EVENT_TYPE_AUTHORIZATION,
            user=_bounded(principal.user),
            result=audit_pb2.RESULT_SUCCESS if allowed else audit_pb2.RESULT_FAILURE,
            duration_ms=milliseconds,
            tenant=_bounded(principal.tenant),
            decision=audit_pb2.Decision(allowed=allowed, policy_revision=revision),
            source=_source(caller),
            request_id=_bounded(caller.request_id),
        )
        if len(actions) == 1:
            [action], [decision] = actions, decisions
            _describe(event, action, decision)
        else:
            event.action = "batch_check"
            event.decision.rule = "batch"
            for number, part in enumerate(_parts(actions, decisions)):
                event.metadata[f"decisions.{number}"] = part
        metadata = {
            "auth_type": principal.auth_type,
            "credential_id": principal.credential_id,
            "asked_by": caller.peer,
        }
        for key, value in metadata.items():
            if value:
                event.metadata[key] = _bounded(value)
        # What a replay over another policy needs (`kubegate policy replay`).
        event.metadata["principal"] = verified.recorded
        return await self._audit.append(event, principal_token=token, deadline=caller.deadline)

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
        """Records an administrative act durably and returns the event's id."""
        event = _act_event(act, audit_pb2.RESULT_ERROR if error else audit_pb2.RESULT_SUCCESS, error)
        if phase is Phase.INTENT:
            event.result = audit_pb2.RESULT_UNKNOWN
        event.phase = _PHASES[phase]
        event.intent_id = intent_id
        if ends_at is not None:
            event.deadline.FromDatetime(ends_at)
        return await self._audit.append(event, principal_token=act.token, deadline=deadline)

    async def act_refused(self, act: Act, code: str, message: str) -> None:
        """Records a refused administrative act; a flood of one kind becomes counted events (R25)."""
        event = _act_event(act, audit_pb2.RESULT_FAILURE, code)
        event.metadata["reason"] = _bounded(message, MAX_NOTE)
        key = ("admin", act.caller.peer, act.action, act.principal.user, code)
        await self._audit.append_folded(key, event, deadline=act.caller.deadline)

    async def refused(self, caller: Caller, refusal: Refusal) -> None:
        """Records a token that was not accepted; a flood of them becomes counted events (R25)."""
        kind, metadata = audit_pb2.EVENT_TYPE_AUTHORIZATION, {"asked_by": caller.peer}
        if refusal.violation:
            kind = audit_pb2.EVENT_TYPE_SECURITY_VIOLATION
            metadata["violation_type"] = "principal_token_of_another_peer"
        event = audit_pb2.Event(
            event_type=kind,
            user=_bounded(refusal.user),
            action="check",
            result=audit_pb2.RESULT_FAILURE,
            error_message=_bounded(refusal.reason),
            metadata=metadata,
            source=_source(caller),
            request_id=_bounded(caller.request_id),
        )
        key = (caller.peer, refusal.reason, refusal.user)
        await self._audit.append_folded(key, event, deadline=caller.deadline)

    def policy_adopted(self, revision: str, previous: str) -> None:
        """Records, as soon as audit takes it, that a policy is in force."""
        metadata = {"revision": revision} | ({"previous_revision": previous} if previous else {})
        self._later(_policy_event(audit_pb2.RESULT_SUCCESS, "", metadata))

    def policy_rejected(self, revision: str, problems: Sequence[str]) -> None:
        """Records, as soon as audit takes it, that a changed policy is unusable and ``revision`` stays."""
        message = "; ".join(problems)[:MAX_PROBLEMS]
        metadata = {"revision": revision, "problems": str(len(problems))}
        self._later(_policy_event(audit_pb2.RESULT_FAILURE, message, metadata))

    async def close(self) -> None:
        """Gives up on what audit has not taken."""
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    def _later(self, event: audit_pb2.Event) -> None:
        # A policy that takes rights away must not wait for audit to come back; while audit is away, nothing
        # is decided anyway.
        task = asyncio.create_task(self._until_recorded(event))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _until_recorded(self, event: audit_pb2.Event) -> None:
        outage = Outage(log, "change of policy not recorded yet", "change of policy recorded")
        while True:
            try:
                await self._audit.append(event, deadline=Deadline.after(5))
            except DomainError as error:
                outage.failed(reason=error.public_message)
                await asyncio.sleep(_RETRY)
            else:
                outage.worked()
                return


def _act_event(act: Act, result: audit_pb2.Result.ValueType, error: str) -> audit_pb2.Event:
    event = audit_pb2.Event(
        event_type=audit_pb2.EVENT_TYPE_ADMIN,
        user=_bounded(act.principal.user),
        action=act.action,
        resource=act.resource,
        result=result,
        error_message=error,
        metadata={key: _bounded(text, MAX_NOTE) for key, text in act.metadata.items()},
        tenant=_bounded(act.principal.tenant),
        source=_source(act.caller),
        request_id=_bounded(act.caller.request_id),
    )
    event.metadata["operator"] = act.caller.peer
    return event


def _policy_event(result: audit_pb2.Result.ValueType, message: str, metadata: dict[str, str]) -> audit_pb2.Event:
    return audit_pb2.Event(
        event_type=audit_pb2.EVENT_TYPE_ADMIN,
        user=WRITER,
        action="policy.load",
        resource="policy",
        result=result,
        error_message=message,
        metadata=metadata,
    )


def _describe(event: audit_pb2.Event, action: Action, decision: Decision) -> None:
    event.action = _bounded(action.tool or decision.permission or action.verb)
    event.resource = _resource(action)
    event.namespace = _bounded(action.namespace)
    event.decision.rule = decision.rule_id
    event.decision.permission = decision.permission
    if isinstance(decision, Denied):
        event.error_message = decision.explanation
    more = {
        "permission_check": decision.permission,
        "verb": action.verb,
        "group": action.group,
        "subresource": action.subresource,
        "cluster": action.cluster,
        "replicas": "" if action.replicas is None else str(action.replicas),
    }
    for key, value in more.items():
        if value:
            event.metadata[key] = _bounded(value)


def _parts(actions: Sequence[Action], decisions: Sequence[Decision]) -> Iterator[str]:
    """The decisions of a batch, one line each, in parts that fit a record's value.

    A line: rule, verb, group, resource, subresource, namespace, name, replicas, cluster; separated by tabs.
    """
    every = [
        f"{decision.rule_id}\t{verb}\t{group}\t{resource}\t{subresource}\t{namespace}\t{name}\t"
        f"{'' if replicas is None else replicas}\t{cluster}"
        for (group, resource, verb, subresource, namespace, name, cluster, _tool, replicas), decision in zip(
            actions, decisions, strict=True
        )
    ]
    if not _plain(every):
        every = [_bounded_line(action, decision) for action, decision in zip(actions, decisions, strict=True)]
    lines: list[str] = []
    size = 0
    for line in every:
        if size + len(line) >= MAX_PART and lines:
            yield "\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    yield "\n".join(lines)


def _plain(lines: Sequence[str]) -> bool:
    """Whether every line is short, printable, and has no separators but ours: seen at once, for it is the rule."""
    text = "".join(lines)
    if text.count("\t") != TABS * len(lines) or len(max(lines, key=len)) > MAX_TEXT:
        return False
    return text.replace("\t", "").isprintable()


def _bounded_line(action: Action, decision: Decision) -> str:
    replicas = "" if action.replicas is None else str(action.replicas)
    values = (decision.rule_id, action.verb, action.group, action.resource, action.subresource)
    # What is no action at all may be as long as its caller likes: a hundred of them must still fit one record.
    impossible = isinstance(decision, Denied) and decision.reason is Reason.INVALID_ACTION
    limit = MAX_IMPOSSIBLE if impossible else MAX_TEXT
    places = (action.namespace, action.name, replicas, action.cluster)
    return "\t".join([_bounded(value, limit) for value in (*values, *places)])


def _resource(action: Action) -> str:
    kind = f"{action.resource}.{action.group}" if action.group else action.resource
    path = "/".join(part for part in (kind, action.name, action.subresource) if part)
    return _bounded(path)


def _source(caller: Caller) -> identity_pb2.Source:
    return identity_pb2.Source(address=_bounded(caller.address), user_agent=_bounded(caller.user_agent))


def _bounded(text: str, limit: int = MAX_TEXT) -> str:
    """A text that a caller may have chosen, fit for a record: short, and without control characters."""
    text = text[:limit]
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
