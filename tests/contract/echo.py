"""A service that answers with what it knows of the call, on the ground that all services stand on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from services.common.deadline import Deadline
from services.common.errors import (
    InvalidArgument,
)
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer, current_call
from services.common.grpc_stream import StreamClient, serve_stream
from tests.fakes.mesh import Mesh

SERVICE = "kubegate.authz.v1.AuthzService"


class Echo(authz_pb2_grpc.AuthzServiceServicer):
    """Answers with what it knows of the call; the request id says how to misbehave."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.breaks = 0
        self.asked: list[str] = []

    async def Check(self, request: Any, context: Any) -> authz_pb2.CheckResponse:
        return await self.check(request)

    async def ListAllowed(self, request: Any, context: Any) -> authz_pb2.ListAllowedResponse:
        return authz_pb2.ListAllowedResponse()

    async def CheckStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        broken = asyncio.Event()

        async def check_or_break(request: Any) -> authz_pb2.CheckResponse:
            answer = await self.check(request)
            if request.request_id == "break" and self.breaks:
                self.breaks -= 1
                broken.set()
                await asyncio.Event().wait()
            return answer

        answers = serve_stream(
            request_iterator,
            check_or_break,
            response_type=authz_pb2.CheckStreamResponse,
            answer_type=authz_pb2.CheckAnswer,
            limit=8,
        )
        breaking = asyncio.ensure_future(broken.wait())
        while True:
            following = asyncio.ensure_future(anext(answers, None))
            await asyncio.wait({following, breaking}, return_when=asyncio.FIRST_COMPLETED)
            if breaking.done():
                following.cancel()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
            if (response := following.result()) is None:
                break
            yield response
        breaking.cancel()

    async def check(self, request: Any) -> authz_pb2.CheckResponse:
        self.asked.append(request.request_id)
        match request.request_id:
            case "hold":
                await self.release.wait()
            case "refuse":
                raise InvalidArgument("malformed", retry_after=2.5)
            case "crash":
                raise ValueError("kg_id_secret")
        return authz_pb2.CheckResponse(policy_revision=current_call().peer, event_id=request.request_id)


class Fixture:
    def __init__(self, mesh: Mesh, echo: Echo, port: int, server: GrpcServer) -> None:
        self.mesh, self.echo, self.port, self.server = mesh, echo, port, server
        self.problems: list[str] = []

    def peer(self, as_: str, service: str = "authz", mesh: Mesh | None = None) -> Peer:
        return (mesh or self.mesh).peer(service, self.port, as_)


async def ask(peer: Peer, request_id: str = "a", seconds: float = 5) -> authz_pb2.CheckResponse:
    try:
        answer: authz_pb2.CheckResponse = await peer.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check,
            authz_pb2.CheckRequest(request_id=request_id),
            Deadline.after(seconds),
        )
        return answer
    finally:
        await peer.close()


def client(peer: Peer, **options: Any) -> StreamClient[authz_pb2.CheckRequest, authz_pb2.CheckResponse]:
    return StreamClient(
        peer,
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).CheckStream,
        authz_pb2.CheckStreamRequest,
        authz_pb2.CheckItem,
        **options,
    )


def question(request_id: str) -> authz_pb2.CheckRequest:
    return authz_pb2.CheckRequest(request_id=request_id)
