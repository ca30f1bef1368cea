"""A server that answers as no cluster should, over real TLS, and the adapter connected to it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.ports import ObjectRef, Resource
from tests.contract.kube import Authority

PODS = Resource("", "v1", "pods")
POD = ObjectRef(PODS, "default", "web-1")
SCALE = ObjectRef(Resource("apps", "v1", "deployments"), "default", "web", "scale")


class Meta(msgspec.Struct):
    name: str


class Thing(msgspec.Struct):
    metadata: Meta


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers with whatever `handler` says and keeps the requests."""

    def __init__(self) -> None:
        self.handler: Handler = self.things
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.connections: set[Any] = set()
        self.url = ""

    async def things(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"items": [{"metadata": {"name": "web-1"}}], "metadata": {"continue": "more"}})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        self.connections.add(request.transport)
        return await self.handler(request)

    def says(self, status: int, reason: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = json.dumps({"kind": "Status", "status": "Failure", "reason": reason, "message": message})
            return web.Response(status=status, text=body, content_type="application/json", headers=headers)

        self.handler = handler


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("kube"))


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context())
    await site.start()
    found.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def cluster(authority: Authority, server: Server) -> AsyncIterator[KubernetesCluster]:
    opened = await KubernetesCluster.open(authority.settings(server.url, max_response_bytes=100_000))
    yield opened
    await opened.close()
