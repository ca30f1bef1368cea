"""The MCP endpoint over real TLS, on fakes of authn, authz, audit and the cluster; clients of both eras."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import trustme
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from services.mcp_core.edge.connections import ConnectionLimits
from services.mcp_core.edge.server import HttpsServer, bind, tls_context
from tests.unit.mcp_core.edge.fakes import ALICE, World

DEFAULTS = ConnectionLimits()


@dataclass
class Served:
    """A world behind HTTPS."""

    world: World
    ca_file: Path
    port: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def http(self, key: str = ALICE) -> httpx2.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.AsyncClient(headers=headers, verify=context, base_url=self.url, trust_env=False, timeout=60)

    @asynccontextmanager
    async def client(self, era: str, key: str = ALICE) -> AsyncIterator[Client]:
        async with (
            self.http(key) as http,
            Client(streamable_http_client(self.url + "/mcp", http_client=http), mode=era, cache=None) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    pair = authority.issue_cert("localhost", "127.0.0.1")
    pair.private_key_pem.write_to_path(directory / "tls.key")
    pair.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    authority.cert_pem.write_to_path(directory / "ca.crt")
    return directory


@asynccontextmanager
async def serving(world: World, certificates: Path, limits: ConnectionLimits = DEFAULTS) -> AsyncIterator[Served]:
    listener = bind("127.0.0.1:0")
    edge, endpoint = world.edge(f"https://localhost:{listener.getsockname()[1]}")
    context = tls_context(certificates / "tls.crt", certificates / "tls.key")
    server = HttpsServer(edge, listener, context, limits)
    async with endpoint.running():
        await server.start()
        try:
            yield Served(world, certificates / "ca.crt", server.port)
        finally:
            await server.stop()


@asynccontextmanager
async def running(world: World, certificates: Path) -> AsyncIterator[Served]:
    """``serving`` for a fixture, in a task of its own, which leaves the SDK's cancel scopes as it entered them."""
    started: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(world, certificates) as server:
            started.set_result(server)
            await stop.wait()

    def ended(task: asyncio.Task[None]) -> None:
        if not started.done():
            started.set_exception(task.exception() or AssertionError("ended before it served"))

    task = asyncio.create_task(serve())
    task.add_done_callback(ended)
    yield await started
    stop.set()
    await task


@pytest.fixture
async def served(certificates: Path) -> AsyncIterator[Served]:
    async with running(World(), certificates) as server:
        yield server
