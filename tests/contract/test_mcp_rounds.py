"""Rounds, progress and cancellation over real TLS: what a call asks for, tells, and what ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.mcp_core.model import Phase, Result
from services.mcp_core.tools.base import Invocation, Structured
from tests.conformance.fixtures import TOOLS, with_fixtures
from tests.fakes.mcp_edge import Served, certificates, serving
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, World

__all__ = ["certificates"]

KEYS = (b"k" * 32,)
ASKS = "test_input_required_result_request_state"
CAPABLE: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
ACCEPT = {"accept": "application/json, text/event-stream"}
CONFIRMED = {"confirm": {"action": "accept", "content": {"ok": True}}}
PROGRESS = "test_tool_with_progress"


def modern(method: str, name: str = "", meta: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    envelope = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": CAPABLE,
        **(meta or {}),
    }
    named = {"name": name} if name else {}
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**named, **params, "_meta": envelope}}


def headers(message: dict[str, Any]) -> dict[str, str]:
    name = message["params"].get("name") or message["params"].get("uri")
    found = {**ACCEPT, "mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
    return {**found, "mcp-name": name} if name else found


async def ask(served: Served, message: dict[str, Any], key: str = ALICE) -> Any:
    async with served.http(key) as http:
        return (await http.post("/mcp", json=message, headers=headers(message))).json()


@asynccontextmanager
async def a_core(
    certificates: Path, keys: tuple[bytes, ...] = KEYS, world: World | None = None
) -> AsyncIterator[Served]:
    async with serving(world or World(packed=with_fixtures, state_keys=keys), certificates) as served:
        # One installation, whatever port a replica listens on.
        yield served


async def first_round(served: Served, key: str = ALICE) -> str:
    result = (await ask(served, modern("tools/call", ASKS, arguments={}), key))["result"]
    assert result["resultType"] == "input_required"
    state: str = result["requestState"]
    assert "kept" not in state
    return state


async def second_round(served: Served, state: str, key: str = ALICE, tool: str = ASKS, **arguments: Any) -> Any:
    message = modern("tools/call", tool, arguments=arguments, requestState=state, inputResponses=CONFIRMED)
    return await ask(served, message, key)


@pytest.mark.req("I6.2")
async def test_a_state_comes_back_to_its_own_call_only(certificates: Path) -> None:
    async with a_core(certificates) as served:
        served.world.authz.scopes[ASKS] = replace(served.world.authz.scopes["look"], all=True)
        state = await first_round(served)
        done = (await second_round(served, state))["result"]
        assert done["resultType"] == "complete"
        assert "state-ok" in done["structuredContent"]["text"]
        served.world.invocations.clear()
        refused = [
            await second_round(served, state, BOB),
            await second_round(served, state, tool="test_input_required_result_tampered_state"),
            await second_round(served, state, surplus=1),
            await second_round(served, state[:-4] + "AAAA"),
            await second_round(served, "kept"),
        ]
        for answer in refused:
            assert answer["error"]["code"] == -32602
            assert "kept" not in str(answer)
        assert [event.result for event in served.world.audit.events[-5:]] == [Result.FAILURE] * 5
        assert {event.action for event in served.world.audit.events[-5:]} == {"mcp:tools/call"}


@pytest.mark.req("I6.2")
async def test_without_the_key_a_state_is_worth_nothing(certificates: Path) -> None:
    async with a_core(certificates) as served:
        state = await first_round(served)
    async with a_core(certificates, (b"x" * 32,)) as other:
        assert (await second_round(other, state))["error"]["code"] == -32602


@pytest.mark.req("I6.2")
async def test_a_client_that_cannot_answer_is_told_what_it_lacks(certificates: Path) -> None:
    async with a_core(certificates) as served:
        lacking: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
        answer = await ask(served, modern("tools/call", ASKS, lacking, arguments={}))
        assert answer["error"]["code"] == -32021
        assert answer["error"]["data"] == {"requiredCapabilities": {"elicitation": {}}}
        async with served.http() as http:
            params = {"name": ASKS, "arguments": {}}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            old = (await http.post("/mcp", json=body, headers=ACCEPT)).json()["result"]
        assert old["isError"] is True


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def progress_call(era: str) -> tuple[dict[str, Any], dict[str, str]]:
    message = modern("tools/call", PROGRESS, {"progressToken": "p1"}, arguments={})
    if era != "legacy":
        return message, headers(message)
    message["params"]["_meta"] = {"progressToken": "p1"}
    return message, {**ACCEPT, "mcp-protocol-version": "2025-11-25"}


@pytest.mark.req("I6.6", "R19")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_progress_is_a_stream_that_begins_after_the_intent_is_on_record(certificates: Path, era: str) -> None:
    async with a_core(certificates) as served, served.http() as http:
        message, sent = progress_call(era)
        response = await http.post("/mcp", json=message, headers=sent)
        assert response.headers["content-type"].startswith("text/event-stream")
        for name in ("x-content-type-options", "strict-transport-security", "x-request-id"):
            assert name in response.headers
        events = events_of(response.text)
        told = [event["params"] for event in events if event.get("method") == "notifications/progress"]
        assert [each["progress"] for each in told] == [0, 50, 100]
        assert {each["progressToken"] for each in told} == {"p1"}
        assert events[-1]["result"]["structuredContent"] == {"text": "done"}
        phases = [event.phase for event in served.world.audit.events]
        assert phases == [Phase.INTENT, Phase.OUTCOME]
        served.world.audit.fail = lambda event: event.phase is Phase.INTENT
        response = await http.post("/mcp", json=message, headers=sent)
        answers = events_of(response.text) or [response.json()]
        assert [answer for answer in answers if "method" in answer] == []
        assert answers[0]["result"]["isError"] is True


@pytest.mark.req("I6.6")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_without_a_token_or_for_a_bad_call_there_is_no_stream(certificates: Path, era: str) -> None:
    async with a_core(certificates) as served, served.http() as http:
        message, sent = progress_call(era)
        del message["params"]["_meta"]["progressToken"]
        response = await http.post("/mcp", json=message, headers=sent)
        assert response.headers["content-type"] == "application/json"
        message, sent = progress_call(era)
        message["params"]["arguments"] = "none"
        served.world.audit.events.clear()
        response = await http.post("/mcp", json=message, headers=sent)
        answer = events_of(response.text)[0] if "event-stream" in response.headers["content-type"] else response.json()
        assert answer["error"]["code"] == -32602
        assert [(event.action, event.result) for event in served.world.audit.events] == [
            ("mcp:tools/call", Result.FAILURE)
        ]


class Held:
    """Work that goes on until it is ended; says when it began and how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.forever = asyncio.Event()
        self.was_cancelled = False

    def cancelled(self) -> bool:
        return self.was_cancelled

    async def run(self, invocation: Invocation) -> Structured:
        self.began.set()
        try:
            await self.forever.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()
        return {"done": []}


def look(era: str, number: int = 7, streamed: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    meta = {"progressToken": "p"} if streamed else {}
    message = modern("tools/call", "look", meta, arguments={"namespace": "default"})
    message["id"] = number
    if era == "legacy":
        message["params"]["_meta"] = meta
        return message, {**ACCEPT, "mcp-protocol-version": "2025-11-25"}
    return message, headers(message)


@pytest.mark.req("I6.6")
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_2026_client_that_closes_the_connection_ends_the_work(certificates: Path, streamed: bool) -> None:
    async with a_core(certificates) as served:
        held = Held()
        served.world.run = held.run
        message, sent = look("2026-07-28", streamed=streamed)
        async with served.http() as http:
            call = asyncio.create_task(http.post("/mcp", json=message, headers=sent))
            await held.began.wait()
            call.cancel()
        await held.ended.wait()
        assert held.cancelled()
        while not served.world.audit.events:
            await asyncio.sleep(0.01)
        assert served.world.audit.last.action == "look"
        assert "went away" in served.world.audit.last.error


@pytest.mark.req("I6.6")
async def test_an_older_client_cancels_by_notification_and_only_its_own_request(certificates: Path) -> None:
    async with a_core(certificates) as served:
        held = Held()
        served.world.run = held.run
        served.world.authz.scopes["look"] = replace(served.world.authz.scopes["look"], all=True)
        message, sent = look("legacy")
        notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        async with served.http() as http, served.http(BOB) as bob:
            call = asyncio.create_task(http.post("/mcp", json=message, headers=sent))
            await held.began.wait()
            for other, body in (
                (bob, notice),
                (http, {**notice, "params": {"requestId": "7"}}),
                (http, {**notice, "params": {}}),
            ):
                assert (await other.post("/mcp", json=body, headers=sent)).status_code == 202
            await asyncio.sleep(0)
            assert not held.cancelled(), "an id means nothing beyond its own client"
            assert (await http.post("/mcp", json=notice, headers=sent)).status_code == 202
            answer = (await call).json()
        assert held.cancelled()
        assert "error" in answer
        assert "went away" in next(event.error for event in served.world.audit.events if event.action == "look")


@pytest.mark.req("I6.6")
async def test_two_requests_with_one_id_are_not_cancelled_by_it(certificates: Path) -> None:
    async with a_core(certificates) as served:
        both = [Held(), Held()]
        waiting = iter(both)
        served.world.run = lambda invocation: next(waiting).run(invocation)
        message, sent = look("legacy")
        notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        async with served.http() as first, served.http() as second:
            calls = [asyncio.create_task(http.post("/mcp", json=message, headers=sent)) for http in (first, second)]
            for held in both:
                await held.began.wait()
            await first.post("/mcp", json=notice, headers=sent)
            assert not any(held.cancelled() for held in both)
            for held in both:
                held.forever.set()
            await asyncio.gather(*calls)


@pytest.mark.req("I6.6")
async def test_a_lost_connection_of_an_older_client_ends_nothing(certificates: Path) -> None:
    async with a_core(certificates) as served:
        began, go = asyncio.Event(), asyncio.Event()

        async def run(invocation: Invocation) -> Structured:
            began.set()
            await go.wait()
            return {"done": []}

        served.world.run = run
        message, sent = look("legacy")
        async with served.http() as http:
            call = asyncio.create_task(http.post("/mcp", json=message, headers=sent))
            await began.wait()
            call.cancel()
        async with served.http() as http:
            await http.get("/healthz")
        go.set()
        while not served.world.audit.events:
            await asyncio.sleep(0.01)
        assert served.world.audit.last.result is Result.SUCCESS


@pytest.mark.req("I6.3")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_schemas_are_enforced_in_both_directions(certificates: Path, era: str) -> None:
    async def lies(invocation: Invocation) -> Structured:
        return {"done": "not a list", "password": "hunter2"}

    async with a_core(certificates) as served, served.client(era) as client:
        surplus = await client.call_tool("look", {"namespace": "default", "surplus": 1})
        assert surplus.is_error
        assert "surplus" in str(surplus.content)
        served.world.run = lies
        broken = await client.call_tool("look", {"namespace": "default"})
        assert broken.is_error
        assert broken.structured_content is None
        assert "hunter2" not in str(broken)
        assert served.world.audit.last.result is Result.ERROR
        assert served.world.audit.last.request_id in str(broken.content)


def test_the_fixtures_are_never_part_of_the_product() -> None:
    names = {tool.name for tool in TOOLS}
    assert not names & set(World().registry)
