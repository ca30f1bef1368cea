"""Two cores of one installation behind one address that serves one client alternately: nothing is kept in either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Any

import httpx
import pytest

from tests.e2e.cores import Core, core
from tests.e2e.stack import RunningStack

ACCEPT = {"accept": "application/json, text/event-stream"}
ASKS = "test_input_required_result_multi_round"
LEGACY = {**ACCEPT, "mcp-protocol-version": "2025-11-25"}


@pytest.fixture(scope="module")
def replicas(stack: RunningStack) -> Iterator[list[Core]]:
    """Both serve the fixtures too, which ask back; they share the stack's key for that, and one public address."""
    shared: dict[str, Any] = {"base_url": "https://localhost:8443"}
    with ExitStack() as cores:
        yield [
            cores.enter_context(core(stack, f"replica-{number}", "tests.conformance.core", **shared))
            for number in (1, 2)
        ]


class Balanced:
    """A client behind a balancer that gives each request to the next replica."""

    def __init__(self, replicas: list[Core], http: httpx.Client) -> None:
        self._next = cycle(replicas)
        self.http = http

    def post(self, message: dict[str, Any], headers: dict[str, str]) -> Any:
        answer = self.http.post(f"{next(self._next).base_url}/mcp", json=message, headers=headers)
        return answer.json() if answer.content else None

    def modern(self, method: str, name: str = "", **params: Any) -> Any:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        }
        named = {"name": name} if name else {}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**named, **params, "_meta": meta}}
        headers = {**ACCEPT, "mcp-protocol-version": "2026-07-28", "mcp-method": method}
        return self.post(message, {**headers, "mcp-name": name} if name else headers)["result"]

    def legacy(self, method: str, **params: Any) -> Any:
        return self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, LEGACY)["result"]


@pytest.fixture
def client(replicas: list[Core], stack: RunningStack) -> Iterator[Balanced]:
    with stack.client(stack.admin) as http:
        yield Balanced(replicas, http)


@pytest.mark.req("I6.11", "I6.2")
def test_a_call_of_several_rounds_goes_on_at_the_other_replica(client: Balanced) -> None:
    first = client.modern("tools/call", ASKS, arguments={})
    answer = {"step1": {"action": "accept", "content": {"name": "Ada"}}}
    second = client.modern("tools/call", ASKS, arguments={}, inputResponses=answer, requestState=first["requestState"])
    assert second["resultType"] == "input_required"
    answer = {"step2": {"action": "accept", "content": {"color": "green"}}}
    third = client.modern("tools/call", ASKS, arguments={}, inputResponses=answer, requestState=second["requestState"])
    assert third["resultType"] == "complete"
    assert "Ada" in third["structuredContent"]["text"]
    assert "green" in third["structuredContent"]["text"]


@pytest.mark.req("I6.11", "I6.1")
def test_clients_of_both_eras_are_served_by_turns_and_see_the_same(client: Balanced) -> None:
    lists = [client.modern("tools/list")["tools"] for _ in range(2)]
    assert lists[0] == lists[1]
    initialized = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    assert client.legacy("initialize", **initialized)["protocolVersion"] == "2025-11-25"
    client.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, LEGACY)
    for _ in range(2):
        called = client.legacy("tools/call", name="list_services", arguments={"namespace": "default"})
        assert called["structuredContent"]["services"]
    sizes = {len(client.legacy("tools/list")["tools"]) for _ in range(2)}
    assert sizes == {len(lists[0])}


@pytest.mark.req("I6.11", "I6.9", "R16")
def test_who_is_asked_by_one_replica_may_answer_the_other(client: Balanced, replicas: list[Core]) -> None:
    """A client of 2025: its call waits at one core, and its answer reaches the other."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "t", "version": "1"},
    }
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    session = client.http.post(f"{replicas[0].base_url}/mcp", json=initialize, headers=LEGACY).headers["mcp-session-id"]
    own = LEGACY | {"mcp-session-id": session}
    call = {"name": "test_streaming_elicitation", "arguments": {}}
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
    with client.http.stream("POST", f"{replicas[1].base_url}/mcp", json=message, headers=own) as waiting:
        said = (json.loads(line[6:]) for line in waiting.iter_lines() if line.startswith("data: "))
        question = next(said)
        assert question["method"] == "elicitation/create"
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
        assert client.http.post(f"{replicas[0].base_url}/mcp", json=answer, headers=own).status_code == 202
        assert "Ada" in next(said)["result"]["structuredContent"]["text"]
