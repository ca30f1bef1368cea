"""The Keeper port over authz's OnceService."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.authz.v1 import once_pb2, once_pb2_grpc
from services.common.deadline import Deadline
from services.common.errors import DomainError, Internal, NotFound
from services.common.grpc_client import Peer
from services.mcp_core.adapters.peers import away_or_refused, question_deadline
from services.mcp_core.model import Caller
from services.mcp_core.ports import Confirmed, Said, Spent, Taken

MARGIN = 5.0
"""Seconds beyond a wait that its answer may take."""

Method = Callable[[once_pb2_grpc.OnceServiceStub], Any]


class AuthzKeeper:
    """Asks authz, one call at a time: only changes with a key or a confirmation come here."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def recall(self, caller: Caller, key: str, digest: bytes) -> Taken | None:
        request = once_pb2.RecallRequest(principal_token=caller.token, key=once_pb2.OnceKey(key=key, digest=digest))
        answer = await self._ask(lambda stub: stub.Recall, request, caller.context.deadline, caller.context.request_id)
        return _taken(answer.record) if answer.HasField("record") else None

    async def claim(
        self, caller: Caller, key: str, digest: bytes, confirmed: Confirmed | None, until: float
    ) -> str | Taken | Spent:
        request = once_pb2.ClaimRequest(
            principal_token=caller.token, request_id=caller.context.request_id, deadline=_stamp(until)
        )
        if key:
            request.key.key, request.key.digest = key, digest
        if confirmed is not None:
            request.confirmation.id = confirmed.id
            request.confirmation.expires_at.CopyFrom(_stamp(confirmed.expires))
        answer: once_pb2.ClaimResponse = await self._ask(
            lambda stub: stub.Claim, request, caller.context.deadline, caller.context.request_id
        )
        match answer.WhichOneof("outcome"):
            case "claim_id":
                return answer.claim_id
            case "taken":
                return _taken(answer.taken)
            case "used":
                return Spent.USED
            case "expired":
                return Spent.EXPIRED
        # No outcome at all allows nothing: closed by default.
        raise Internal

    async def settle(self, claim_id: str, outcome: str, deadline: Deadline) -> None:
        await self._ask(lambda stub: stub.Settle, once_pb2.SettleRequest(claim_id=claim_id, outcome=outcome), deadline)

    async def release(self, claim_id: str, deadline: Deadline) -> None:
        await self._ask(lambda stub: stub.Release, once_pb2.ReleaseRequest(claim_id=claim_id), deadline)

    async def ask(self, caller: Caller) -> str:
        request = once_pb2.AskRequest(principal_token=caller.token)
        answer: once_pb2.AskResponse = await self._ask(lambda stub: stub.Ask, request, caller.context.deadline)
        return answer.question_id

    async def answer(self, caller: Caller, question_id: str, said: Said) -> None:
        request = once_pb2.AnswerRequest(
            principal_token=caller.token, question_id=question_id, accepted=said.accepted, content=said.content
        )
        await self._ask(lambda stub: stub.Answer, request, caller.context.deadline)

    async def wait(self, caller: Caller, question_id: str, seconds: float) -> Said:
        request = once_pb2.AwaitAnswerRequest(principal_token=caller.token, question_id=question_id)
        request.patience.FromTimedelta(timedelta(seconds=seconds))
        try:
            answer: once_pb2.AwaitAnswerResponse = await self._peer.unary(
                lambda channel: once_pb2_grpc.OnceServiceStub(channel).AwaitAnswer,
                request,
                Deadline.after(seconds + MARGIN),
            )
        except DomainError as error:
            raise away_or_refused("authz", error) from None
        return Said(answer.accepted, answer.content)

    async def _ask(self, method: Method, request: Any, deadline: Deadline, request_id: str = "") -> Any:
        metadata = (("request-id", request_id),) if request_id else ()
        try:
            return await self._peer.unary(
                lambda channel: method(once_pb2_grpc.OnceServiceStub(channel)),
                request,
                question_deadline(deadline),
                metadata,
            )
        except NotFound:
            raise
        except DomainError as error:
            raise away_or_refused("authz", error) from None


def _taken(record: once_pb2.OnceRecord) -> Taken:
    return Taken(record.same, record.request_id, _seconds(record.claimed_at), _seconds(record.deadline), record.outcome)


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9
