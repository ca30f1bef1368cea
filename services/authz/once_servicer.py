"""kubegate.authz.v1.OnceService: protobuf to the domain and back. No decision is made here."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.authz.v1 import once_pb2, once_pb2_grpc
from services.authz.once import Expired, Once, Used
from services.authz.ports import Claim, Confirmation
from services.authz.questions import Questions
from services.authz.servicer import caller_of


class OnceServicer(once_pb2_grpc.OnceServiceServicer):
    """For the core's replicas only."""

    def __init__(self, once: Once, questions: Questions) -> None:
        self._once = once
        self._questions = questions

    async def Recall(self, request: once_pb2.RecallRequest, context: Any) -> once_pb2.RecallResponse:
        key = request.key
        found = await self._once.recall(caller_of(), request.principal_token, key.key, key.digest)
        return once_pb2.RecallResponse(record=_record(found, key.digest) if found else None)

    async def Claim(self, request: once_pb2.ClaimRequest, context: Any) -> once_pb2.ClaimResponse:
        given = request.confirmation
        confirmation = None
        if request.HasField("confirmation"):
            confirmation = Confirmation(given.id, _seconds(given.expires_at))
        key = (request.key.key, request.key.digest) if request.HasField("key") else None
        caller = caller_of(request_id=request.request_id)
        deadline = _seconds(request.deadline)
        said = await self._once.claim(caller, request.principal_token, key, confirmation, deadline)
        match said:
            case Claim():
                return once_pb2.ClaimResponse(taken=_record(said, request.key.digest))
            case Used():
                return once_pb2.ClaimResponse(used=True)
            case Expired():
                return once_pb2.ClaimResponse(expired=True)
            case claim_id:
                return once_pb2.ClaimResponse(claim_id=claim_id)

    async def Settle(self, request: once_pb2.SettleRequest, context: Any) -> once_pb2.SettleResponse:
        await self._once.settle(request.claim_id, request.outcome)
        return once_pb2.SettleResponse()

    async def Release(self, request: once_pb2.ReleaseRequest, context: Any) -> once_pb2.ReleaseResponse:
        await self._once.release(request.claim_id)
        return once_pb2.ReleaseResponse()

    async def Ask(self, request: once_pb2.AskRequest, context: Any) -> once_pb2.AskResponse:
        return once_pb2.AskResponse(question_id=await self._questions.ask(caller_of(), request.principal_token))

    async def Answer(self, request: once_pb2.AnswerRequest, context: Any) -> once_pb2.AnswerResponse:
        await self._questions.answer(
            caller_of(),
            request.principal_token,
            request.question_id,
            accepted=request.accepted,
            content=request.content,
        )
        return once_pb2.AnswerResponse()

    async def AwaitAnswer(self, request: once_pb2.AwaitAnswerRequest, context: Any) -> once_pb2.AwaitAnswerResponse:
        seconds = request.patience.seconds + request.patience.nanos / 1e9
        said = await self._questions.wait(caller_of(), request.principal_token, request.question_id, seconds)
        accepted, content = said
        return once_pb2.AwaitAnswerResponse(accepted=accepted, content=content)


def _record(claim: Claim, digest: bytes) -> once_pb2.OnceRecord:
    if claim.digest != digest:
        return once_pb2.OnceRecord(same=False)
    return once_pb2.OnceRecord(
        same=True,
        request_id=claim.request_id,
        claimed_at=_stamp(claim.claimed_at),
        deadline=_stamp(claim.deadline),
        outcome=claim.outcome,
    )


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9
