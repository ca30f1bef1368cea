"""What a tool asks a client of 2025 in the middle of a call: by whom it is answered, and what else comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.mcp_core.mcp.elicitation import LONGEST
from services.mcp_core.model import Result
from tests.conformance.fixtures import with_fixtures
from tests.contract.test_edge_confirmations import JSON, events, rpc
from tests.fakes.mcp_edge import certificates, serving
from tests.unit.mcp_core.edge.fakes import BOB, World

__all__ = ["certificates"]

ALL: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
NAME = {"action": "accept", "content": {"text": "Ada", "name": "Ada"}}
ROUNDS = "test_input_required_result_multi_round"
SEVERAL = "test_input_required_result_multiple_inputs"


async def session(http: httpx2.AsyncClient, capabilities: dict[str, Any]) -> dict[str, str]:
    """The headers that a client of 2025 with these capabilities sends after `initialize`."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": {"name": "test", "version": "1"},
    }
    response = await rpc(http, {}, {"id": 1, "method": "initialize", "params": params})
    given = response.headers.get("mcp-session-id")
    return {"mcp-protocol-version": "2025-11-25"} | ({"mcp-session-id": given} if given else {})


@asynccontextmanager
async def called(
    http: httpx2.AsyncClient, own: dict[str, str], name: str
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": {}}}
    async with http.stream("POST", "/mcp", headers=JSON | own, json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response)


@pytest.mark.req("I6.9", "R16")
async def test_each_round_is_answered_by_who_was_asked_and_is_on_record(certificates: Path) -> None:
    world = World(packed=with_fixtures)
    async with serving(world, certificates) as served, served.http() as http, served.http(BOB) as bobs:
        own = await session(http, ALL)
        world.audit.events.clear()
        async with called(http, own, ROUNDS) as said:
            first = await anext(said)
            assert (first["method"], first["params"]["message"]) == (
                "elicitation/create",
                "Step 1: What is your name?",
            )
            refused = await rpc(bobs, own, {"id": first["id"], "result": NAME})
            assert refused.status_code == 404
            long = await rpc(http, own, {"id": first["id"], "result": {"content": {"name": "x" * LONGEST}}})
            assert long.status_code == 400
            assert (await rpc(http, own, {"id": first["id"], "result": NAME})).status_code == 202
            second = await anext(said)
            assert second["id"] != first["id"]
            assert (await rpc(http, own, {"id": second["id"], "result": NAME})).status_code == 202
            answer = await anext(said)
            assert (answer["id"], "Ada" in answer["result"]["structuredContent"]["text"]) == (7, True)
            assert [each async for each in said] == []
    rounds = [event.result for event in world.audit.events if event.action == ROUNDS]
    assert rounds == [Result.FAILURE, Result.FAILURE, Result.SUCCESS]
    assert not [event for event in world.audit.events if "Ada" in str(event)], "an answer is nobody's record"


@pytest.mark.req("I6.9")
async def test_all_that_a_round_asks_is_asked(certificates: Path) -> None:
    results: dict[str, Any] = {
        "elicitation/create": NAME,
        "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "Hi"}, "model": "m"},
        "roots/list": {"roots": [{"uri": "file:///work"}]},
    }
    async with serving(World(packed=with_fixtures), certificates) as served, served.http() as http:
        own = await session(http, ALL)
        asked = []
        async with called(http, own, SEVERAL) as said:
            async for event in said:
                if "method" not in event:
                    assert "state-ok" in event["result"]["structuredContent"]["text"]
                    break
                asked.append(event["method"])
                await rpc(http, own, {"id": event["id"], "result": results[event["method"]]})
    assert asked == list(results)


@pytest.mark.req("I6.9", "R16")
@pytest.mark.parametrize(
    "said",
    [
        {"result": {"action": "decline"}},
        {"result": {"action": "accept", "content": "none"}},
        {"result": "yes"},
        {"error": {"code": -1, "message": "no"}},
    ],
)
async def test_who_says_no_or_nothing_is_not_asked_again(certificates: Path, said: dict[str, Any]) -> None:
    async with serving(World(packed=with_fixtures), certificates) as served, served.http() as http:
        own = await session(http, ALL)
        async with called(http, own, "test_streaming_elicitation") as stream:
            question = await anext(stream)
            assert (await rpc(http, own, {"id": question["id"], **said})).status_code == 202
            answer = await anext(stream)
            assert answer["result"]["isError"] is True
            assert [each async for each in stream] == []


@pytest.mark.req("I6.9", "R16")
async def test_a_client_is_asked_only_what_it_said_it_can_answer(certificates: Path) -> None:
    async with serving(World(packed=with_fixtures), certificates) as served, served.http() as http:
        async with served.http(BOB) as bobs:
            foreign = await session(bobs, ALL)
        params = {"name": SEVERAL, "arguments": {}}
        for own in (await session(http, {"elicitation": {}, "roots": {}}), await session(http, {}), foreign):
            response = await rpc(http, own, {"id": 7, "method": "tools/call", "params": params})
            assert response.headers["content-type"] == "application/json"
            assert response.json()["result"]["isError"] is True
