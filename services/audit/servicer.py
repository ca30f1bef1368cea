"""AuditService over gRPC: protobuf to domain and back, no decisions."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.audit.event import Decision, Event, EventType, Phase, Result
from services.audit.ports import Filter, Record
from services.audit.service import AuditService, Reader
from services.common.call import PRINCIPAL_TOKEN_METADATA, current_call
from services.common.errors import InvalidArgument
from services.common.grpc_stream import serve_stream

MESSAGE_BYTES = 512 * 1024
"""Records in one message of an answer, at most about so many bytes."""

E = TypeVar("E", bound=StrEnum)


def _names(kind: type[E], enum: Any, prefix: str) -> Mapping[int, E]:
    return {enum.Value(f"{prefix}_{member.name}"): member for member in kind}


_TYPES = _names(EventType, audit_pb2.EventType, "EVENT_TYPE")
_RESULTS = _names(Result, audit_pb2.Result, "RESULT")
_PHASES = _names(Phase, audit_pb2.Phase, "PHASE")
_EXACT = ("user", "action", "resource", "namespace", "request_id")


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """The RPCs of ``kubegate.audit.v1.AuditService``."""

    def __init__(self, service: AuditService) -> None:
        self._service = service

    async def Append(self, request: audit_pb2.AppendRequest, context: Any) -> audit_pb2.AppendResponse:
        return await self._append(request)

    async def AppendStream(
        self, request_iterator: AsyncIterator[audit_pb2.AppendStreamRequest], context: Any
    ) -> AsyncIterator[audit_pb2.AppendStreamResponse]:
        async for response in serve_stream(
            request_iterator,
            self._append,
            response_type=audit_pb2.AppendStreamResponse,
            answer_type=audit_pb2.AppendAnswer,
        ):
            yield response

    async def Query(self, request: audit_pb2.QueryRequest, context: Any) -> AsyncIterator[audit_pb2.QueryResponse]:
        pages = self._service.query(
            _reader(),
            _filter(request.filter),
            limit=request.limit,
            descending=request.descending,
            cursor=request.cursor,
        )
        async for records, cursor in pages:
            parts = list(_parts(records))
            for part in parts[:-1]:
                yield audit_pb2.QueryResponse(records=part)
            yield audit_pb2.QueryResponse(records=parts[-1] if parts else (), next_cursor=cursor)

    async def Tail(self, request: audit_pb2.TailRequest, context: Any) -> AsyncIterator[audit_pb2.TailResponse]:
        first = request.from_sequence if request.HasField("from_sequence") else None
        async for records in self._service.tail(_reader(), _filter(request.filter), first):
            for part in _parts(records):
                yield audit_pb2.TailResponse(records=part)

    async def GetCheckpoint(
        self, request: audit_pb2.GetCheckpointRequest, context: Any
    ) -> audit_pb2.GetCheckpointResponse:
        return audit_pb2.GetCheckpointResponse(checkpoint=self._service.checkpoint())

    async def _append(self, request: audit_pb2.AppendRequest) -> audit_pb2.AppendResponse:
        ack = await self._service.append(current_call().peer, event(request.event), request.principal_token)
        return audit_pb2.AppendResponse(event_id=ack.event_id, sequence=ack.sequence)


def event(message: audit_pb2.Event) -> Event:
    """The domain event of a message.

    Raises:
        InvalidArgument: an enum is unset or unknown, or a time is missing or out of range.
    """
    if not message.HasField("timestamp"):
        raise InvalidArgument("The event cannot be recorded: timestamp is missing.")
    decision = message.decision
    return Event(
        event_id=message.event_id,
        timestamp=_time(message.timestamp, "timestamp"),
        event_type=_member(_TYPES, message.event_type, "event_type"),
        action=message.action,
        result=_member(_RESULTS, message.result, "result"),
        user=message.user,
        resource=message.resource,
        namespace=message.namespace,
        error_message=message.error_message,
        metadata=dict(message.metadata),
        duration_ms=message.duration_ms,
        tenant=message.tenant,
        decision=Decision(decision.allowed, decision.rule, decision.policy_revision, decision.permission)
        if message.HasField("decision")
        else None,
        source_address=message.source.address,
        user_agent=message.source.user_agent,
        request_id=message.request_id,
        trace_id=message.trace_id,
        phase=_member(_PHASES, message.phase, "phase") if message.phase else None,
        intent_id=message.intent_id,
        deadline=_time(message.deadline, "deadline") if message.HasField("deadline") else None,
    )


def _member(members: Mapping[int, E], number: int, name: str) -> E:
    try:
        return members[number]
    except KeyError:
        raise InvalidArgument(f"The event cannot be recorded: {name} is missing or unknown.") from None


def _time(stamp: Timestamp, name: str) -> datetime:
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{name} is out of range.") from None


def _filter(message: audit_pb2.Filter) -> Filter:
    equal = {name: getattr(message, name) for name in _EXACT if getattr(message, name)}
    if message.event_type:
        equal["event_type"] = _member(_TYPES, message.event_type, "event_type").value
    if message.result:
        equal["result"] = _member(_RESULTS, message.result, "result").value
    since = _time(message.since, "since") if message.HasField("since") else None
    until = _time(message.until, "until") if message.HasField("until") else None
    return Filter(equal, since, until)


def _reader() -> Reader:
    call = current_call()
    return Reader(call.peer, call.metadata.get(PRINCIPAL_TOKEN_METADATA, ""), call.request_id, call.deadline)


def _parts(records: Sequence[Record]) -> Iterator[list[audit_pb2.Record]]:
    """The records in messages of bounded size."""
    part: list[audit_pb2.Record] = []
    length = 0
    for record in records:
        part.append(audit_pb2.Record(sequence=record.sequence, canonical_json=record.canonical_json))
        length += len(record.canonical_json)
        if length >= MESSAGE_BYTES:
            yield part
            part, length = [], 0
    if part:
        yield part
