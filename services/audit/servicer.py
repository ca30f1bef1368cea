"""AuditService over gRPC: protobuf to domain and back, no decisions."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.audit import translate
from services.audit.authorizing import Reader
from services.audit.files import CsvFile, ProofFile, json_lines
from services.audit.keeping import AuditKeeping
from services.audit.ports import Ack
from services.audit.reading import Attestation, AuditReading
from services.audit.service import AuditService, Item
from services.audit.tailing import AuditTailing
from services.common.call import PRINCIPAL_TOKEN_METADATA, current_call
from services.common.errors import DomainError, InvalidArgument
from services.common.grpc_batches import Answers, serve_batches

IN_FLIGHT = 2048
"""Events of one stream that wait for their commit at most; no more are read until some are answered."""


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """The RPCs of ``kubegate.audit.v1.AuditService``."""

    def __init__(
        self, service: AuditService, reading: AuditReading, tailing: AuditTailing, keeping: AuditKeeping
    ) -> None:
        self._service, self._reading, self._tailing, self._keeping = service, reading, tailing, keeping

    async def Append(self, request: audit_pb2.AppendRequest, context: Any) -> audit_pb2.AppendResponse:
        event = translate.event(request.event)
        return _ack(await self._service.append(current_call().peer, event, request.principal_token))

    async def AppendStream(
        self, request_iterator: AsyncIterator[audit_pb2.AppendStreamRequest], context: Any
    ) -> AsyncIterator[audit_pb2.AppendStreamResponse]:
        writer = current_call().peer

        def handle(requests: Sequence[audit_pb2.AppendRequest]) -> Sequence[tuple[Sequence[int], Awaitable[Answers]]]:
            return self._append_all(writer, requests)

        async for response in serve_batches(
            request_iterator,
            handle,
            response_type=audit_pb2.AppendStreamResponse,
            answer_type=audit_pb2.AppendAnswer,
            limit=IN_FLIGHT,
        ):
            yield response

    def _append_all(
        self, writer: str, requests: Sequence[audit_pb2.AppendRequest]
    ) -> Sequence[tuple[Sequence[int], Awaitable[Answers]]]:
        items: list[Item] = []
        at: list[int] = []
        refused: list[tuple[Sequence[int], Awaitable[Answers]]] = []
        for index, request in enumerate(requests):
            try:
                items.append((translate.event(request.event), request.principal_token))
                at.append(index)
            except DomainError as error:
                refused.append(((index,), _settled(error)))
        groups = self._service.append_all(writer, items)
        return [*refused, *(([at[index] for index in indices], _acks(work)) for indices, work in groups)]

    async def Query(self, request: audit_pb2.QueryRequest, context: Any) -> AsyncIterator[audit_pb2.QueryResponse]:
        pages = self._reading.query(
            _reader(),
            translate.filter_(request.filter),
            limit=request.limit,
            descending=request.descending,
            cursor=request.cursor,
        )
        async with aclosing(pages):
            async for records, cursor in pages:
                parts = list(translate.records(records))
                for part in parts[:-1]:
                    yield audit_pb2.QueryResponse(records=part)
                yield audit_pb2.QueryResponse(records=parts[-1] if parts else (), next_cursor=cursor)

    async def Tail(self, request: audit_pb2.TailRequest, context: Any) -> AsyncIterator[audit_pb2.TailResponse]:
        first = request.from_sequence if request.HasField("from_sequence") else None
        filter_, stopping = translate.filter_(request.filter), current_call().stopping
        async with aclosing(self._tailing.follow(_reader(), filter_, first, stopping)) as tail:
            async for records in tail:
                for part in translate.records(records):
                    yield audit_pb2.TailResponse(records=part)

    async def GetCheckpoint(
        self, request: audit_pb2.GetCheckpointRequest, context: Any
    ) -> audit_pb2.GetCheckpointResponse:
        return audit_pb2.GetCheckpointResponse(checkpoint=self._reading.checkpoint())

    async def Export(self, request: audit_pb2.ExportRequest, context: Any) -> AsyncIterator[audit_pb2.ExportResponse]:
        lines = request.format == audit_pb2.EXPORT_FORMAT_JSON_LINES
        if not lines and request.format != audit_pb2.EXPORT_FORMAT_CSV:
            raise InvalidArgument("format is missing or unknown.")
        if request.proofs and not lines:
            raise InvalidArgument("Proofs go with JSON Lines; a CSV file cannot be verified.")
        table, proof, count, checkpoint = CsvFile(), ProofFile(), 0, self._reading.checkpoint()
        pages = self._reading.export(_reader(), translate.filter_(request.filter), proofs=request.proofs)
        async with aclosing(pages):
            async for records, proofs in pages:
                proven = iter(proofs)
                for part in translate.parts_of(records) if records else ((),):
                    count += len(part)
                    yield audit_pb2.ExportResponse(
                        data=json_lines(part) if lines else table.part(part),
                        proof=proof.part(part, list(islice(proven, len(part)))) if request.proofs else b"",
                        events=count,
                    )
        if request.proofs:
            yield audit_pb2.ExportResponse(proof=proof.end(checkpoint), events=count)

    async def Stats(self, request: audit_pb2.StatsRequest, context: Any) -> audit_pb2.StatsResponse:
        counts = await self._reading.stats(
            _reader(), translate.filter_(request.filter), translate.counted(request.by), request.bucket_seconds
        )
        return audit_pb2.StatsResponse(rows=map(translate.row, counts))

    async def GetInclusionProof(
        self, request: audit_pb2.GetInclusionProofRequest, context: Any
    ) -> audit_pb2.GetInclusionProofResponse:
        record, proof = await self._reading.inclusion(_reader(), request.sequence)
        return audit_pb2.GetInclusionProofResponse(
            record=translate.record(record), hashes=proof.hashes, checkpoint=proof.checkpoint
        )

    async def GetConsistencyProof(
        self, request: audit_pb2.GetConsistencyProofRequest, context: Any
    ) -> audit_pb2.GetConsistencyProofResponse:
        proof = await self._reading.consistency(_reader(), request.old_size)
        return audit_pb2.GetConsistencyProofResponse(hashes=proof.hashes, checkpoint=proof.checkpoint)

    async def GetReceipt(self, request: audit_pb2.GetReceiptRequest, context: Any) -> audit_pb2.GetReceiptResponse:
        text = await self._reading.receipt(_reader(), request.writer, request.event_id)
        return audit_pb2.GetReceiptResponse(tlog_proof=text)

    async def LogComplianceEvent(
        self, request: audit_pb2.LogComplianceEventRequest, context: Any
    ) -> audit_pb2.LogComplianceEventResponse:
        attestation = Attestation(
            request.event_id,
            request.framework,
            request.control,
            request.action,
            request.resource,
            translate.result(request.result),
            dict(request.details),
        )
        event_id, sequence = await self._reading.attest(_reader(), attestation)
        return audit_pb2.LogComplianceEventResponse(event_id=event_id, sequence=sequence)

    async def GetRetention(
        self, request: audit_pb2.GetRetentionRequest, context: Any
    ) -> audit_pb2.GetRetentionResponse:
        kept = await self._keeping.show(_reader())
        return audit_pb2.GetRetentionResponse(
            days=kept.days,
            first_sequence=kept.first,
            size=kept.size,
            tombstone=kept.tombstone,
            holds=map(translate.hold, kept.holds),
        )

    async def GetRetiredLeaves(
        self, request: audit_pb2.GetRetiredLeavesRequest, context: Any
    ) -> AsyncIterator[audit_pb2.GetRetiredLeavesResponse]:
        async for leaves in self._keeping.leaves(_reader()):
            yield audit_pb2.GetRetiredLeavesResponse(leaves=leaves)

    async def PlaceHold(self, request: audit_pb2.PlaceHoldRequest, context: Any) -> audit_pb2.PlaceHoldResponse:
        since = translate.time(request.since, "since") if request.HasField("since") else None
        return audit_pb2.PlaceHoldResponse(id=await self._keeping.hold(_reader(), request.reason, since))

    async def ReleaseHold(self, request: audit_pb2.ReleaseHoldRequest, context: Any) -> audit_pb2.ReleaseHoldResponse:
        await self._keeping.release(_reader(), request.id, request.reason)
        return audit_pb2.ReleaseHoldResponse()

    async def Retire(self, request: audit_pb2.RetireRequest, context: Any) -> audit_pb2.RetireResponse:
        return audit_pb2.RetireResponse(events=await self._keeping.retire(_reader()))


def _ack(ack: Ack) -> audit_pb2.AppendResponse:
    return audit_pb2.AppendResponse(event_id=ack.event_id, sequence=ack.sequence)


async def _acks(work: Awaitable[Sequence[Ack | DomainError]]) -> Answers:
    return [_ack(answer) if isinstance(answer, Ack) else answer for answer in await work]


async def _settled(error: DomainError) -> Answers:
    return [error]


def _reader() -> Reader:
    call = current_call()
    return Reader(call.peer, call.metadata.get(PRINCIPAL_TOKEN_METADATA, ""), call.request_id, call.deadline)
