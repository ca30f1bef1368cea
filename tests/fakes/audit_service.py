"""A small audit service over real mTLS gRPC: keeps events in memory and misbehaves when told to."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.common.config import TlsFiles
from services.common.errors import Unavailable
from services.common.grpc_server import GrpcServer, current_call
from services.common.grpc_stream import serve_stream


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event as it arrived."""

    writer: str
    event: audit_pb2.Event
    token: str


class FakeAudit(audit_pb2_grpc.AuditServiceServicer):
    """``fail_when`` refuses the events that it accepts; ``release`` cleared holds every answer."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._server: GrpcServer | None = None
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """Forgets everything and behaves again."""
        self.events: list[Recorded] = []
        self.fail_when: Any = lambda event: False
        self.release = asyncio.Event()
        self.release.set()

    async def start(self) -> None:
        """Serves, on the same port each time."""
        self._server = GrpcServer(f"127.0.0.1:{self.port}", self._tls, list)
        self._server.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, self, "kubegate.audit.v1.AuditService")
        self.port = await self._server.start()

    async def stop(self) -> None:
        """Is away."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def Append(self, request: audit_pb2.AppendRequest, context: Any) -> audit_pb2.AppendResponse:
        return await self._append(request)

    async def AppendStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for response in serve_stream(
            request_iterator,
            self._append,
            response_type=audit_pb2.AppendStreamResponse,
            answer_type=audit_pb2.AppendAnswer,
        ):
            yield response

    async def _append(self, request: audit_pb2.AppendRequest) -> audit_pb2.AppendResponse:
        await self.release.wait()
        if self.fail_when(request.event):
            raise Unavailable("The log cannot be written.")
        self.events.append(Recorded(current_call().peer, request.event, request.principal_token))
        return audit_pb2.AppendResponse(event_id=request.event.event_id, sequence=len(self.events))

    def Query(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Tail(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GetCheckpoint(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def of(self, event_type: int, **fields: Any) -> list[audit_pb2.Event]:
        """The events of a type whose fields have these values."""
        return [
            each.event
            for each in self.events
            if each.event.event_type == event_type
            and all(getattr(each.event, name) == value for name, value in fields.items())
        ]
