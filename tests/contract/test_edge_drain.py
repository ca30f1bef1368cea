"""The edge stops without leaving anybody unanswered who was let in (I9.8)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.mcp_core.edge.connections import ConnectionLimits
from services.mcp_core.edge.server import HttpsServer, bind, tls_context
from services.mcp_core.edge.wire import Receive, Response, Scope, Send
from tests.contract.test_edge_floods import certificates

__all__ = ["certificates"]

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 30.0


class Slow:
    """An application whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.release()
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def malformed(self, address: str, status: int) -> tuple[str, Response]:
        raise AssertionError("everything sent here is a request")


@contextlib.asynccontextmanager
async def serving(certificates: Path, app: Slow) -> AsyncIterator[tuple[HttpsServer, socket.socket]]:
    listener = bind("127.0.0.1:0")
    context = tls_context(certificates / "tls.crt", certificates / "tls.key")
    server = HttpsServer(app, listener, context, ConnectionLimits())
    await server.start()
    try:
        yield server, listener
    finally:
        app.go.set()
        await server.stop()


async def connect(port: int, certificates: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")


async def answer(reader: asyncio.StreamReader) -> str:
    """The whole of what comes until the server ends the connection."""
    return (await asyncio.wait_for(reader.read(), PATIENCE)).decode().lower()


@pytest.mark.req("I9.8")
async def test_who_is_being_served_who_is_idle_and_who_just_came_are_all_answered(certificates: Path) -> None:
    app = Slow()
    async with serving(certificates, app) as (server, listener):
        port = server.port
        busy, idle = [await connect(port, certificates) for _ in range(2)]
        busy[1].write(GET)
        await app.asked.acquire()
        # Connected by the system, and not yet accepted: the loop does not run in between.
        waiting = socket.create_connection(("127.0.0.1", port))
        waiting.setblocking(False)
        stopping = asyncio.create_task(server.stop())
        late = await asyncio.open_connection(
            sock=waiting,
            ssl=ssl.create_default_context(cafile=str(certificates / "ca.crt")),
            server_hostname="localhost",
        )
        late[1].write(GET)
        while listener.fileno() >= 0:
            await asyncio.sleep(0.001)
        # It has not heard yet that the server ends.
        idle[1].write(GET)
        for _ in range(2):
            await asyncio.wait_for(app.asked.acquire(), PATIENCE)
        app.go.set()
        for reader, writer in (busy, idle, late):
            said = await answer(reader)
            assert said.startswith("http/1.1 200")
            assert said.endswith("ok")
            assert "connection: close" in said
            writer.close()
        await asyncio.wait_for(stopping, PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            await connect(port, certificates)


@pytest.mark.req("I9.8")
async def test_idle_connections_hold_nobody_up(certificates: Path) -> None:
    async with serving(certificates, Slow()) as (server, _):
        reader, writer = await connect(server.port, certificates)
        await asyncio.wait_for(server.stop(), PATIENCE)
        assert await answer(reader) == ""
        writer.close()
