"""The core's HTTPS listener over real sockets, in this process, on the core's fakes; clients from several addresses."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from services.mcp_core.edge.connections import ConnectionLimits
from services.mcp_core.edge.server import HttpsServer, bind, tls_context
from tests.unit.mcp_core.edge.fakes import World

PATIENCE = 30.0
FOREVER = ConnectionLimits(most=128, per_source=64, handshake=600, head=600, idle=600, linger=600, stall=600)
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. Headers by lower-case name; repeated ones are joined by a line break."""

    status: int
    headers: dict[str, str]
    body: bytes


def make_certificates(directory: Path) -> Path:
    """Of the edge and its authority, of a client that it knows, and of one that it does not (``stranger.pem``)."""
    authority, clients = trustme.CA(), trustme.CA()
    pair = authority.issue_cert("localhost")
    pair.private_key_pem.write_to_path(directory / "tls.key")
    pair.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    authority.cert_pem.write_to_path(directory / "ca.crt")
    clients.cert_pem.write_to_path(directory / "client-ca.crt")
    clients.issue_cert("robot", common_name="robot").private_key_and_cert_chain_pem.write_to_path(
        directory / "client.pem"
    )
    trustme.CA().issue_cert("robot", common_name="robot").private_key_and_cert_chain_pem.write_to_path(
        directory / "stranger.pem"
    )
    return directory


class EdgeClients:
    """Clients of one server."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.directory = directory
        self._context = self.context()
        self._writers: list[asyncio.StreamWriter] = []

    def context(self, client: str = "") -> ssl.SSLContext:
        """What trusts the server, and shows that certificate of a client."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        if client:
            context.load_cert_chain(self.directory / client)
        return context

    async def open(
        self, source: str = "127.0.0.1", *, tls: bool = True, context: ssl.SSLContext | None = None
    ) -> Stream:
        settings = {"ssl": context or self._context, "server_hostname": "localhost"} if tls else {}
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            local_addr=(source, 0),
            **settings,  # type: ignore[arg-type]
        )
        self._writers.append(writer)
        return reader, writer

    async def ask(self, request: bytes = GET, source: str = "127.0.0.1") -> bytes:
        """The status line of the answer on a connection of its own."""
        reader, writer = await self.open(source)
        writer.write(request)
        await writer.drain()
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
        writer.transport.abort()
        return line

    async def answers(self, request: bytes, count: int = 1, context: ssl.SSLContext | None = None) -> list[Answer]:
        """The answers to what is written at once on a connection of its own."""
        reader, writer = await self.open(context=context)
        writer.write(request)
        found = [await read_answer(reader) for _ in range(count)]
        writer.transport.abort()
        return found

    async def answer(self, request: bytes, context: ssl.SSLContext | None = None) -> Answer:
        (found,) = await self.answers(request, context=context)
        return found

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer of a connection."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.lower()
        headers[key] = f"{headers[key]}\n{value.strip()}" if key in headers else value.strip()
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", "0"))), PATIENCE)
    return Answer(int(first.split()[1]), headers, body)


@contextlib.asynccontextmanager
async def https_edge(
    directory: Path, limits: ConnectionLimits = FOREVER, world: World | None = None, *, client_ca: bool = False
) -> AsyncIterator[EdgeClients]:
    """Serves until the end of the block. ``client_ca``: clients may show certificates."""
    listener = bind("127.0.0.1:0")
    app, endpoint = (world or World()).edge(f"https://localhost:{listener.getsockname()[1]}")
    authorities = directory / "client-ca.crt" if client_ca else None
    context = tls_context(directory / "tls.crt", directory / "tls.key", authorities)
    server = HttpsServer(app, listener, context, limits)
    over, ready = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        # A task of its own: fixtures end in another one than they began in, which the SDK's task group refuses.
        async with endpoint.running():
            ready.set()
            await over.wait()

    task = asyncio.create_task(serve())
    await ready.wait()
    await server.start()
    clients = EdgeClients(server.port, directory)
    try:
        yield clients
    finally:
        clients.close()
        await server.stop()
        over.set()
        await task
