"""Events of each type, so that writers need not know the message: hand them to ``AuditClient.append``.

Who may write which type is fixed (R22): other platform services write ``external`` ones. Whoever acts is proven
by the principal token beside the event; ``user`` alone is marked as asserted.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.audit.v1 import audit_pb2

RESULTS: Mapping[str, audit_pb2.Result.ValueType] = {
    "success": audit_pb2.RESULT_SUCCESS,
    "failure": audit_pb2.RESULT_FAILURE,
    "error": audit_pb2.RESULT_ERROR,
    "unknown": audit_pb2.RESULT_UNKNOWN,
}


def authentication(user: str, *, auth_type: str, result: str, **fields: Any) -> audit_pb2.Event:
    """Somebody tried to prove who they are."""
    event = _event(audit_pb2.EVENT_TYPE_AUTHENTICATION, "authenticate", result, fields, user=user)
    event.metadata["auth_type"] = auth_type
    return event


def authorization(
    user: str, action: str, decision: audit_pb2.Decision, *, resource: str, namespace: str = "", **fields: Any
) -> audit_pb2.Event:
    """A decision of policy."""
    result = "success" if decision.allowed else "failure"
    event = _event(
        audit_pb2.EVENT_TYPE_AUTHORIZATION, action, result, fields, user=user, resource=resource, namespace=namespace
    )
    event.decision.CopyFrom(decision)
    event.metadata["permission_check"] = decision.permission
    return event


def mcp_request(user: str, tool: str, *, result: str, **fields: Any) -> audit_pb2.Event:
    """A call that is recorded as a whole: a read, or one that was refused."""
    return _event(audit_pb2.EVENT_TYPE_MCP_REQUEST, tool, result, fields, user=user)


def mcp_intent(user: str, tool: str, *, deadline: datetime, **fields: Any) -> audit_pb2.Event:
    """Before a change is executed. After the deadline and a grace, a missing outcome is reported (R21)."""
    event = _event(audit_pb2.EVENT_TYPE_MCP_REQUEST, tool, "unknown", fields, user=user)
    event.phase = audit_pb2.PHASE_INTENT
    due = Timestamp()
    due.FromDatetime(deadline)
    event.deadline.CopyFrom(due)
    return event


def mcp_outcome(user: str, tool: str, *, intent_id: str, result: str, **fields: Any) -> audit_pb2.Event:
    """After a change was executed, or was not."""
    event = _event(audit_pb2.EVENT_TYPE_MCP_REQUEST, tool, result, fields, user=user)
    event.phase, event.intent_id = audit_pb2.PHASE_OUTCOME, intent_id
    return event


def security_violation(user: str, *, violation_type: str, **fields: Any) -> audit_pb2.Event:
    """What looks like an attack, or a service that breaks its rules."""
    event = _event(audit_pb2.EVENT_TYPE_SECURITY_VIOLATION, violation_type, "failure", fields, user=user)
    event.metadata["violation_type"] = violation_type
    return event


def compliance(user: str, action: str, *, framework: str, control: str, result: str, **fields: Any) -> audit_pb2.Event:
    """What was done about a control. People use the RPC LogComplianceEvent instead, which proves who they are."""
    event = _event(audit_pb2.EVENT_TYPE_COMPLIANCE, action, result, fields, user=user)
    event.metadata["framework"], event.metadata["control"] = framework, control
    return event


def admin(user: str, action: str, *, resource: str, result: str, **fields: Any) -> audit_pb2.Event:
    """Administration that was carried out or refused."""
    return _event(audit_pb2.EVENT_TYPE_ADMIN, action, result, fields, user=user, resource=resource)


def external(user: str, action: str, *, result: str, **fields: Any) -> audit_pb2.Event:
    """What another platform service has to put on record."""
    return _event(audit_pb2.EVENT_TYPE_EXTERNAL, action, result, fields, user=user)


def _event(
    kind: audit_pb2.EventType.ValueType, action: str, result: str, fields: Mapping[str, Any], **known: Any
) -> audit_pb2.Event:
    return audit_pb2.Event(event_type=kind, action=action, result=RESULTS[result], **known, **fields)
