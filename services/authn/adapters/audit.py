"""audit, as authn writes to it."""

from kubegate.audit.v1 import audit_pb2
from services.authn.entry import Entry, Kind, Phase, Result
from services.authn.messages import source_to_proto, stamp
from services.common.audit_client import AuditClient
from services.common.deadline import Deadline

_KINDS = {
    Kind.AUTHENTICATION: audit_pb2.EVENT_TYPE_AUTHENTICATION,
    Kind.ADMIN: audit_pb2.EVENT_TYPE_ADMIN,
}
_RESULTS = {
    Result.SUCCESS: audit_pb2.RESULT_SUCCESS,
    Result.FAILURE: audit_pb2.RESULT_FAILURE,
    Result.ERROR: audit_pb2.RESULT_ERROR,
    Result.UNKNOWN: audit_pb2.RESULT_UNKNOWN,
}
_PHASES = {
    Phase.WHOLE: audit_pb2.PHASE_UNSPECIFIED,
    Phase.INTENT: audit_pb2.PHASE_INTENT,
    Phase.OUTCOME: audit_pb2.PHASE_OUTCOME,
}
_REQUEST_ID_LIMIT = 128


class AuditRecorder:
    """Writes through the shared audit client."""

    def __init__(self, client: AuditClient) -> None:
        self._client = client

    async def append(self, entry: Entry, deadline: Deadline, token: str = "") -> str:
        return await self._client.append(to_event(entry), principal_token=token, deadline=deadline)

    async def append_folded(self, key: tuple[str, ...], entry: Entry, deadline: Deadline) -> None:
        await self._client.append_folded(key, to_event(entry), deadline=deadline)


def to_event(entry: Entry) -> audit_pb2.Event:
    """An entry as a message; the client adds id and time."""
    return audit_pb2.Event(
        event_type=_KINDS[entry.kind],
        user=entry.user,
        action=entry.action,
        resource=entry.resource,
        result=_RESULTS[entry.result],
        error_message=entry.error,
        metadata=entry.metadata,
        duration_ms=entry.duration_ms,
        tenant=entry.tenant,
        source=source_to_proto(entry.source),
        request_id=entry.request_id[:_REQUEST_ID_LIMIT],
        phase=_PHASES[entry.phase],
        intent_id=entry.intent_id,
        deadline=stamp(entry.ends_at) if entry.ends_at else None,
    )
