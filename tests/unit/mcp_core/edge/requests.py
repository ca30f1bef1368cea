"""Requests to the real ASGI application on fakes of the ports, for the tests beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.unit.mcp_core.edge.fakes import ALICE, BASE_URL, World

LOOK = "/mcp/tools/look"


KEY = "kg_abc123_" + "s3cret" * 7 + "x"


BEARER = {"authorization": f"Bearer {ALICE}"}


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


MCP = {**BEARER, "accept": "application/json, text/event-stream"}


@asynccontextmanager
async def client(world: World, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    edge, endpoint = world.edge()
    transport = httpx.ASGITransport(app=edge, client=("192.0.2.1", 4711))
    async with endpoint.running(), httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as http:
        yield http


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    return body
