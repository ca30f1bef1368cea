"""The audit log as authz writes it: decisions, refused tokens, and changes of policy (R18, R22)."""

import asyncio
from collections.abc import Sequence

from kubegate.audit.v1 import audit_pb2
from kubegate.common.v1 import identity_pb2
from services.authz.policy.model import Action, Allowed, Decision, Principal
from services.authz.ports import Caller, Refusal
from services.common.audit_client import AuditClient
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.log import get_logger

WRITER = "service/authz"
MAX_TEXT = 256
MAX_PROBLEMS = 2_000
"""Characters of a value that came from a caller, and of a list of problems, in a record."""

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
        principal: Principal,
        action: Action,
        decision: Decision,
        revision: str,
        milliseconds: float,
    ) -> str:
        """Records a decision durably and returns the event's id."""
        allowed = isinstance(decision, Allowed)
        metadata = {
            "permission_check": decision.permission,
            "auth_type": principal.auth_type,
            "credential_id": principal.credential_id,
            "asked_by": caller.peer,
            "verb": action.verb,
        }
        if isinstance(decision, Allowed):
            rule, message = decision.rule_id, ""
        else:
            rule, message = f"denied:{decision.reason.value}", decision.explanation
        event = audit_pb2.Event(
            event_type=audit_pb2.EVENT_TYPE_AUTHORIZATION,
            user=_bounded(principal.user),
            action=_bounded(action.tool or decision.permission or action.verb),
            resource=_resource(action),
            namespace=_bounded(action.namespace),
            result=audit_pb2.RESULT_SUCCESS if allowed else audit_pb2.RESULT_FAILURE,
            error_message=message,
            metadata={key: _bounded(value) for key, value in metadata.items() if value},
            duration_ms=milliseconds,
            tenant=_bounded(principal.tenant),
            decision=audit_pb2.Decision(
                allowed=allowed, rule=rule, policy_revision=revision, permission=decision.permission
            ),
            source=_source(caller),
            request_id=_bounded(caller.request_id),
        )
        return await self._audit.append(event, principal_token=token, deadline=caller.deadline)

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
        while True:
            try:
                await self._audit.append(event, deadline=Deadline.after(5))
            except DomainError as error:
                log.warning("change of policy not recorded yet", reason=error.public_message)
                await asyncio.sleep(_RETRY)
            else:
                return


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


def _resource(action: Action) -> str:
    kind = f"{action.resource}.{action.group}" if action.group else action.resource
    path = "/".join(part for part in (kind, action.name, action.subresource) if part)
    return _bounded(path)


def _source(caller: Caller) -> identity_pb2.Source:
    return identity_pb2.Source(address=_bounded(caller.address), user_agent=_bounded(caller.user_agent))


def _bounded(text: str) -> str:
    """A text that a caller may have chosen, fit for a record: short, and without control characters."""
    return "".join(char if char.isprintable() else "?" for char in text[:MAX_TEXT])
