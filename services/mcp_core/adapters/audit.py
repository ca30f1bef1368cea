"""The Recorder port over audit's stream."""

from __future__ import annotations

from kubegate.audit.v1 import audit_pb2
from services.common.audit_client import AuditClient, timestamp
from services.common.deadline import Deadline
from services.mcp_core.adapters.peers import source
from services.mcp_core.model import Event, Kind, Phase, Result

_KIND = {
    Kind.AUTHENTICATION: audit_pb2.EVENT_TYPE_AUTHENTICATION,
    Kind.MCP_REQUEST: audit_pb2.EVENT_TYPE_MCP_REQUEST,
    Kind.SECURITY_VIOLATION: audit_pb2.EVENT_TYPE_SECURITY_VIOLATION,
}
_RESULT = {
    Result.SUCCESS: audit_pb2.RESULT_SUCCESS,
    Result.FAILURE: audit_pb2.RESULT_FAILURE,
    Result.ERROR: audit_pb2.RESULT_ERROR,
    Result.UNKNOWN: audit_pb2.RESULT_UNKNOWN,
}
_PHASE = {
    Phase.WHOLE: audit_pb2.PHASE_UNSPECIFIED,
    Phase.INTENT: audit_pb2.PHASE_INTENT,
    Phase.OUTCOME: audit_pb2.PHASE_OUTCOME,
}


class AuditAdapter:
    """Appends the core's events."""

    def __init__(self, client: AuditClient) -> None:
        self._client = client

    async def append(self, event: Event, principal_token: str, deadline: Deadline) -> None:
        await self._client.append(_message(event), principal_token=principal_token, deadline=deadline)

    async def append_folded(self, key: tuple[str, ...], event: Event, deadline: Deadline) -> None:
        await self._client.append_folded(key, _message(event), deadline=deadline)


def _message(event: Event) -> audit_pb2.Event:
    message = audit_pb2.Event(
        event_id=event.event_id,
        timestamp=timestamp(event.timestamp),
        event_type=_KIND[event.kind],
        user=event.user,
        action=event.action,
        resource=event.resource,
        namespace=event.namespace,
        result=_RESULT[event.result],
        error_message=event.error,
        metadata=event.metadata,
        duration_ms=event.duration_ms,
        tenant=event.tenant,
        source=source(event.source),
        request_id=event.request_id,
        trace_id=event.trace_id,
        phase=_PHASE[event.phase],
        intent_id=event.intent_id,
    )
    if event.decision is not None:
        message.decision.allowed = event.decision.allowed
        message.decision.rule = event.decision.rule
        message.decision.policy_revision = event.decision.revision
        message.decision.permission = event.decision.permission
    if event.deadline is not None:
        message.deadline.CopyFrom(timestamp(event.deadline))
    return message
