"""Confirmations of MCP clients over real TLS: asked in both eras, answered at another replica, by nobody else (R16)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

from services.mcp_core.model import Kind, Result
from services.mcp_core.tools.base import Change, Plan
from tests.fakes.mcp_edge import Served, certificates, serving
from tests.unit.mcp_core.edge.fakes import ALICE, BOB
from tests.unit.mcp_core.edge.planned import CALL, Planned

__all__ = ["certificates"]

PLAN = Plan("Deletes pod web.", "17", confirm=True, changes=(Change("spec.replicas", 3, None),))
YES = {"action": "accept", "content": {"confirm": True}}
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@asynccontextmanager
async def connected(served: Served, era: str, answer: ElicitationFnT) -> AsyncIterator[Client]:
    async with (
        served.http() as http,
        Client(
            streamable_http_client(served.url + "/mcp", http_client=http),
            mode=era,
            cache=None,
            elicitation_callback=answer,
        ) as client,
    ):
        yield client


@pytest.mark.req("R16", "I8.3")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
@pytest.mark.parametrize(
    ("said", "done"),
    [
        (ElicitResult(action="accept", content={"confirm": True}), True),
        (ElicitResult(action="accept", content={"confirm": False}), False),
        (ElicitResult(action="accept", content={}), False),
        (ElicitResult(action="decline"), False),
        (ElicitResult(action="cancel"), False),
    ],
)
async def test_the_person_decides(certificates: Path, era: str, said: ElicitResult, done: bool) -> None:
    planned = Planned(PLAN)
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return said

    async with serving(planned.world, certificates) as served, connected(served, era, answer) as client:
        result = await client.call_tool("change", CALL)
    assert result.is_error is not done
    assert bool(planned.world.invocations) is done
    assert asked == ["Deletes pod web.\n- spec.replicas: 3 -> nothing\nShall this be done?"]
    event = planned.world.audit.events[-1]
    if not done:
        assert event.metadata["confirmation"] == "refused: declined"


async def rpc(http: httpx2.AsyncClient, headers: dict[str, str], message: dict[str, Any]) -> httpx2.Response:
    return await http.post("/mcp", headers=JSON | headers, json={"jsonrpc": "2.0", **message})


async def session(http: httpx2.AsyncClient, elicitation: Any) -> dict[str, str]:
    """The headers that a client of 2025 sends after `initialize`."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {} if elicitation is None else {"elicitation": elicitation},
        "clientInfo": {"name": "test", "version": "1"},
    }
    response = await rpc(http, {}, {"id": 1, "method": "initialize", "params": params})
    assert response.status_code == 200, response.text
    own = {"mcp-protocol-version": "2025-11-25"}
    if "mcp-session-id" in response.headers:
        own["mcp-session-id"] = response.headers["mcp-session-id"]
    return own


def call(number: int = 7) -> dict[str, Any]:
    return {"id": number, "method": "tools/call", "params": {"name": "change", "arguments": CALL}}


async def events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.req("R16", "I8.3", "I8.4")
async def test_the_answer_may_reach_another_replica_and_must_come_from_who_was_asked(certificates: Path) -> None:
    first, second = Planned(PLAN), Planned(PLAN)
    # What replicas share: authz, and the key.
    second.world.keeper = second.world.pipeline._once._keeper = first.world.keeper
    second.world.sealer = first.world.sealer
    async with (
        serving(first.world, certificates) as one,
        serving(second.world, certificates) as other,
        one.http() as http,
        other.http() as there,
        other.http(BOB) as bobs,
    ):
        own = await session(there, {})
        body = {"jsonrpc": "2.0", **call()}
        async with http.stream("POST", "/mcp", headers=JSON | own, json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            said = events(response)
            question = await anext(said)
            assert question["method"] == "elicitation/create"
            assert not first.world.invocations

            for stranger, number in ((bobs, question["id"]), (there, "guessed")):
                refused = await rpc(stranger, own, {"id": number, "result": YES})
                assert refused.status_code == 404
            record = second.world.audit.last
            assert (record.action, record.result) == ("mcp:elicitation/create", Result.FAILURE)
            assert not first.world.invocations

            taken = await rpc(there, own, {"id": question["id"], "result": YES})
            assert taken.status_code == 202
            answer = await anext(said)
            assert (answer["id"], answer["result"].get("isError", False)) == (7, False)
    assert len(first.world.invocations) == 1
    assert not second.world.invocations


@pytest.mark.req("R16", "I8.3")
@pytest.mark.parametrize("elicitation", [None, {"url": {}}, "yes"])
async def test_a_client_that_did_not_say_so_is_not_asked(certificates: Path, elicitation: Any) -> None:
    planned = Planned(PLAN)
    planned.world.authz.denied = {"kubegate:confirm:handle"}
    async with serving(planned.world, certificates) as served, served.http() as http:
        params: dict[str, Any] = {
            "protocolVersion": "2025-11-25",
            "capabilities": {} if elicitation is None else {"elicitation": elicitation},
            "clientInfo": {"name": "test", "version": "1"},
        }
        response = await rpc(http, {}, {"id": 1, "method": "initialize", "params": params})
        assert "mcp-session-id" not in response.headers
        for claimed in ("", "x", planned.world.sealer.seal(b"session")):
            own = {"mcp-protocol-version": "2025-11-25"} | ({"mcp-session-id": claimed} if claimed else {})
            refused = await rpc(http, own, call())
            assert "kubegate:confirm:handle" in refused.text
    assert not planned.world.invocations


@pytest.mark.req("R16", "I8.4")
async def test_another_persons_session_is_none(certificates: Path) -> None:
    planned = Planned(PLAN)
    planned.world.authz.denied = {"kubegate:confirm:handle"}
    async with serving(planned.world, certificates) as served, served.http(ALICE) as http, served.http(BOB) as bobs:
        foreign = await session(bobs, {"form": {}})
        assert "mcp-session-id" in foreign
        refused = await rpc(http, foreign, call())
        assert "cannot be asked" in refused.text


@pytest.mark.req("R16", "I8.4")
async def test_a_forged_request_state_is_a_security_violation(certificates: Path) -> None:
    planned = Planned(PLAN)
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "change"}
    params = {"name": "change", "arguments": CALL, "_meta": meta}
    async with serving(planned.world, certificates) as served, served.http() as http, served.http(BOB) as bobs:
        asked = (await rpc(http, headers, {"id": 1, "method": "tools/call", "params": params})).json()["result"]
        assert asked["resultType"] == "input_required"
        answers = dict.fromkeys(asked["inputRequests"], YES)
        state = asked["requestState"]
        altered = state[:-8] + ("A" if state[-8] != "A" else "B") + state[-7:]
        planned.world.authz.scopes["change"] = planned.world.authz.scopes["look"]
        for client, forged, arguments in (
            (http, "forged", CALL),
            (http, altered, CALL),
            (http, state, {**CALL, "name": "other"}),
            (bobs, state, CALL),
        ):
            answered = params | {"arguments": arguments, "requestState": forged, "inputResponses": answers}
            refused = await rpc(client, headers, {"id": 2, "method": "tools/call", "params": answered})
            assert "requestState" in refused.text, refused.text
            event = planned.world.audit.last
            assert (event.kind, event.result) == (Kind.SECURITY_VIOLATION, Result.FAILURE)
            assert event.metadata["violation_type"] == "request_state_refused"
        assert not planned.world.invocations
        answered = params | {"requestState": state, "inputResponses": answers}
        done = await rpc(http, headers, {"id": 3, "method": "tools/call", "params": answered})
        assert not done.json()["result"].get("isError"), done.text
        again = await rpc(http, headers, {"id": 4, "method": "tools/call", "params": answered})
        assert again.json()["result"]["isError"]
        assert planned.world.audit.last.metadata["violation_type"] == "confirmation_used"
    assert len(planned.world.invocations) == 1
    await asyncio.sleep(0)
