"""What clients hear before an answer, over real TLS: who asked for it does, at the level asked for, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx2
import mcp_types as types
import pytest
from mcp_types import ElicitResult

from services.mcp_core.mcp import telling
from services.mcp_core.mcp.telling import LogLevels
from services.mcp_core.model import Result, Scope
from services.mcp_core.tools.base import Invocation, Structured
from tests.conformance.fixtures import with_fixtures
from tests.contract.test_edge_confirmations import JSON, PLAN, connected, events, rpc
from tests.fakes.mcp_edge import certificates, serving
from tests.unit.mcp_core.edge.fakes import BOB, World
from tests.unit.mcp_core.edge.planned import CALL, Planned

__all__ = ["certificates"]

OLD = {"mcp-protocol-version": "2025-11-25"}
CAPABLE: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
LOGS = "test_tool_with_logging"
STEPS = ["step 0 of 100", "step 50 of 100", "step 100 of 100"]


async def told(http: httpx2.AsyncClient, headers: dict[str, str], name: str = LOGS, **meta: Any) -> list[str] | None:
    """The messages of the log that a call sends; None where its answer is no stream."""
    params = {"name": name, "arguments": {}, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    async with http.stream("POST", "/mcp", headers=JSON | headers, json=body) as response:
        if response.headers["content-type"] == "application/json":
            assert json.loads(await response.aread())["result"]["structuredContent"] == {"text": "done"}
            return None
        *logged, answer = [each async for each in events(response)]
    assert answer["result"]["structuredContent"] == {"text": "done"}
    assert {each["method"] for each in logged} <= {"notifications/message"}
    assert {each["params"]["level"] for each in logged} <= {"info"}
    return [each["params"]["data"]["message"] for each in logged]


async def set_level(http: httpx2.AsyncClient, level: str, **headers: str) -> httpx2.Response:
    return await rpc(http, OLD | headers, {"id": 1, "method": "logging/setLevel", "params": {"level": level}})


@pytest.mark.req("I6.13")
async def test_an_older_client_hears_what_it_asked_for_and_no_other_client_does(certificates: Path) -> None:
    async with serving(World(packed=with_fixtures), certificates) as served:
        async with served.http() as http, served.http(BOB) as bobs:
            served.world.authz.scopes[LOGS] = Scope(all=True)
            assert await told(http, OLD) is None
            assert (await set_level(http, "info")).json()["result"] == {}
            assert served.world.audit.last.action == "mcp:logging/setLevel"
            assert await told(http, OLD) == STEPS
            assert await told(http, OLD | {"user-agent": "another"}) is None
            assert await told(bobs, OLD) is None
            await set_level(http, "debug")
            assert await told(http, OLD) == STEPS
            await set_level(http, "notice")
            assert not await told(http, OLD)
            refused = await set_level(http, "loud")
            assert refused.json()["error"]["code"] == types.INVALID_PARAMS
            assert served.world.audit.last.result is Result.FAILURE


@pytest.mark.req("I6.13")
async def test_a_client_of_2026_asks_with_every_request(certificates: Path) -> None:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": LOGS}
    level = types.LOG_LEVEL_META_KEY
    async with serving(World(packed=with_fixtures), certificates) as served, served.http() as http:
        await set_level(http, "debug")
        assert await told(http, headers, **CAPABLE) is None
        assert await told(http, headers, **CAPABLE, **{level: "info"}) == STEPS
        assert await told(http, headers, **CAPABLE) is None
        assert not await told(http, headers, **CAPABLE, **{level: "error"})


@pytest.mark.req("I6.13")
async def test_a_call_that_tells_nothing_is_no_stream(certificates: Path) -> None:
    async with serving(World(packed=with_fixtures), certificates) as served, served.http() as http:
        await set_level(http, "debug")
        params = {"name": "test_simple_text", "arguments": {}, "_meta": {"progressToken": "p"}}
        response = await rpc(http, OLD, {"id": 7, "method": "tools/call", "params": params})
        assert response.headers["content-type"] == "application/json"


@pytest.mark.req("I6.13", "I6.7")
@pytest.mark.parametrize("name", [[], {}, ["a"], {"a": 1}, 1, None, True])
async def test_a_name_that_is_no_text_is_refused_like_any_other_and_on_record(certificates: Path, name: Any) -> None:
    async with serving(World(), certificates) as served, served.http() as http:
        params = {"name": name, "arguments": {}, "_meta": {"progressToken": "p"}}
        response = await rpc(http, OLD, {"id": 7, "method": "tools/call", "params": params})
        assert response.json()["error"]["code"] == types.INVALID_PARAMS
        assert [(event.action, event.result) for event in served.world.audit.events] == [
            ("mcp:tools/call", Result.FAILURE)
        ]


@pytest.mark.req("I6.13", "R16", "I8.3")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
@pytest.mark.parametrize("agrees", [True, False])
async def test_who_wants_progress_is_asked_all_the_same(certificates: Path, era: str, agrees: bool) -> None:
    """The stream that progress needs carries the question, too."""
    planned = Planned(PLAN)

    async def run(invocation: Invocation) -> Structured:
        await invocation.progress(1, 2, "half of it")
        return {"done": []}

    planned.world.run = run
    heard: list[str | None] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept" if agrees else "decline", content={"confirm": True} if agrees else None)

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    async with serving(planned.world, certificates) as served, connected(served, era, answer) as client:
        result = await client.call_tool("change", CALL, progress_callback=hear)
    assert result.is_error is not agrees
    assert heard == (["half of it"] if agrees else [])


@pytest.mark.req("I6.13")
async def test_the_product_offers_no_subscription_that_it_could_not_keep(certificates: Path) -> None:
    subscribe = {"id": 1, "method": "resources/subscribe", "params": {"uri": "test://watched-resource"}}
    async with serving(World(), certificates) as served, served.http() as http:
        refused = await rpc(http, OLD, subscribe)
        assert refused.json()["error"]["code"] == types.METHOD_NOT_FOUND
    async with serving(World(packed=with_fixtures), certificates) as served, served.http() as http:
        assert (await rpc(http, OLD, subscribe)).json()["result"] == {}
        assert served.world.audit.last.action == "test_read_resource", "decided as the reading that it asks for"
        served.world.authz.denied = {"k8s:pods:list"}
        assert "error" in (await rpc(http, OLD, subscribe)).json()


@pytest.mark.req("I6.13")
async def test_what_is_kept_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "MOST", 2)
    levels = LogLevels()

    def client(number: int) -> MagicMock:
        return MagicMock(client=(number,), modern=False)

    for number in (1, 2, 1, 3):
        monkeypatch.setattr(telling, "exchange_of", lambda ctx, number=number: client(number))
        await levels.set(MagicMock(), types.SetLevelRequestParams(level="error"))
    assert [levels.of(client(number), {}) for number in (1, 2, 3)] == ["error", "", "error"]
