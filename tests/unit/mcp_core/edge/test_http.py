"""The HTTPS interface through the real ASGI application, on fakes of the ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.mcp_core import journal
from services.mcp_core.errors import ClusterDenied, ClusterRejected, OutcomeUnknown
from services.mcp_core.json_text import parse_json
from services.mcp_core.model import Result
from services.mcp_core.tools.base import Invocation, Structured
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, World
from tests.unit.mcp_core.edge.requests import BEARER, KEY, LOOK, MCP, client, problem


@pytest.mark.req("I2.2")
@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", None]
)
async def test_a_tool_call_as_curl_sends_it(content_type: str | None) -> None:
    world = World()
    headers = BEARER | ({"content-type": content_type} if content_type else {})
    async with client(world) as http:
        response = await http.post(LOOK, content=b'{"namespace":"default"}', headers=headers)
    assert response.status_code == 200
    assert response.json() == {"done": ["default"]}
    assert world.log == ["authenticate", "check", "execute", "record"]
    assert world.audit.last.request_id == response.headers["x-request-id"]
    assert world.audit.last.metadata["interface"] == "rest"
    assert world.audit.last.source.address == "192.0.2.1"


async def test_another_content_type_is_415_and_recorded() -> None:
    world = World()
    async with client(world) as http:
        problem(await http.post(LOOK, content=b"a: 1", headers=BEARER | {"content-type": "text/yaml"}), 415)
    assert world.audit.last.result is Result.FAILURE


@pytest.mark.req("I2.11")
def test_broken_json_is_told_where_it_breaks_and_not_what_stands_there() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_json(b'{"namespace":\n hush}')
    assert refused.value.public_message == "The body is not valid JSON in UTF-8: see line 2, column 2."


@pytest.mark.parametrize(
    "body", [b"{", b"\t\n", b"[1]", b'"x"', b"\xff\xfe", b'{"namespace": NaN}', b"[" * 20000, b"name=web"]
)
async def test_a_body_that_is_no_json_object_is_400_and_recorded(body: bytes) -> None:
    world = World()
    async with client(world, **BEARER) as http:
        problem(await http.post(LOOK, content=body), 400)
    assert world.log == ["authenticate", "record"]
    assert world.audit.last.result is Result.FAILURE
    assert world.audit.last.action == "look"


@pytest.mark.req("I2.11", "R14")
async def test_a_missing_namespace_is_400_and_named() -> None:
    async with client(World(), **BEARER) as http:
        body = problem(await http.post(LOOK), 400)
    assert "namespace" in body["detail"]


async def test_a_body_over_the_limit_is_413_also_without_a_length() -> None:
    world = World()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    async with client(world, **BEARER) as http:
        problem(await http.post(LOOK, content=b" " * 65537), 413)
        problem(await http.post(LOOK, content=chunks()), 413)
        problem(await http.post("/mcp", content=b" " * 65537, headers={"content-type": "application/json"}), 413)
    assert [event.result for event in world.audit.events] == [Result.FAILURE] * 3


@pytest.mark.req("I2.4", "I2.5")
async def test_a_denial_is_403_with_the_missing_grant_and_recorded() -> None:
    world = World()
    async with client(world, authorization=f"Bearer {BOB}") as http:
        denied = problem(await http.post("/mcp/tools/change", json={"name": "web", "namespace": "default"}), 403)
        unknown = problem(await http.post("/mcp/tools/exec", json={}), 403)
        slashes = problem(await http.post("/mcp/tools/a/b", json={}), 403)
    assert denied["missing"] == {"permission": "k8s:deployments:scale", "namespace": "default"}
    assert "missing" not in unknown
    assert "missing" not in slashes
    assert [event.result for event in world.audit.events] == [Result.FAILURE] * 3
    assert not world.invocations


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidArgument("bad"), 400),
        (ClusterDenied("the cluster refuses"), 403),
        (NotFound("no such pod"), 404),
        (Conflict("changed"), 409),
        (FailedPrecondition("no controller"), 409),
        (ClusterRejected("invalid"), 422),
        (ResourceExhausted("busy", retry_after=2.5), 429),
        (Unavailable("the cluster is away"), 503),
        (OutcomeUnknown("no answer"), 504),
        (ValueError("/etc/secret at line 3"), 500),
    ],
)
async def test_the_status_of_each_error(error: Exception, status: int) -> None:
    async def run(invocation: Invocation) -> Structured:
        raise error

    async with client(World(run=run), **BEARER) as http:
        response = await http.post(LOOK, json={"namespace": "default"})
    body = problem(response, status)
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    if status == 429:
        assert response.headers["retry-after"] == "3"
    if status != 500:
        assert body["detail"]


@pytest.mark.req("I2.6")
@pytest.mark.parametrize("away", ["authn", "authz", "audit"])
@pytest.mark.parametrize("path", [LOOK, "/mcp/tools/change", "/mcp/resources"])
async def test_without_a_service_it_is_503_with_retry_after_and_nothing_is_executed(away: str, path: str) -> None:
    world = World()
    if away == "audit":
        world.audit.fail = lambda event: True
    else:
        getattr(world, away).error = Unavailable(f"The {away} service cannot be reached.")
    async with client(world, **BEARER) as http:
        if path == "/mcp/resources":
            response = await http.get(path)
        else:
            response = await http.post(
                path, json={"namespace": "default"} | ({"name": "x"} if "change" in path else {})
            )
    body = problem(response, 503)
    assert away in body["detail"]
    assert int(response.headers["retry-after"]) >= 1
    assert "done" not in response.text
    if path != LOOK or away != "audit":
        assert not world.invocations


@pytest.mark.req("R20")
async def test_executed_but_unrecorded_is_500_and_not_to_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "OUTCOME_SECONDS", 0.5)
    world = World()
    world.audit.fail = lambda event: event.phase == "outcome"
    async with client(world, **BEARER) as http:
        response = await http.post("/mcp/tools/change", json={"name": "web", "namespace": "default"})
    body = problem(response, 500)
    assert "retry-after" not in response.headers
    assert body["request_id"] in body["detail"]
    assert "done" not in response.text
    world.audit.fail = lambda event: False


@pytest.mark.req("R26", "I2.5")
async def test_what_a_caller_writes_reaches_the_record_without_keys_and_control_characters() -> None:
    world = World()
    agent = {"user-agent": f"curl {KEY}"}
    async with client(world, **BEARER) as http:
        await http.post(f"/mcp/tools/{KEY}", json={}, headers=agent)
        await http.post(f"/mcp/tools/{KEY[:9]}%E2%80%AE{KEY[9:]}", json={})
        await http.get("/mcp/resources", headers={"authorization": "Bearer wrong"} | agent)
        long = "password=" + "a" * (16 * 1024 - 40)
        await http.post(f"/mcp/tools/{long} {KEY}", json={}, headers={"user-agent": "a" * 230 + f" {KEY}"})
        assert KEY[:20] not in str(world.audit.events)
        await http.post("/mcp/tools/a%C2%9B31mb%E2%80%AEc", json={})
    assert KEY not in str(world.audit.events)
    assert KEY[9:] not in str(world.audit.events)
    assert all(event.action.isprintable() for event in world.audit.events)
    assert world.audit.last.action == "a\ufffd31mb\ufffdc"


@pytest.mark.parametrize(
    ("message", "action", "result", "status"),
    [
        ({"method": "scale_deployment"}, "mcp:invalid", Result.FAILURE, 400),
        (
            {"method": "tools/call", "params": {"name": "change", "arguments": {}}},
            "mcp:tools/call",
            Result.FAILURE,
            400,
        ),
        ({"method": "tools/list"}, "mcp:tools/list", Result.FAILURE, 400),
        ({"method": "notifications/scale"}, "mcp:invalid", Result.FAILURE, 202),
        ({"method": "notifications/initialized"}, "mcp:notifications/initialized", Result.SUCCESS, 202),
        ({"method": "change", "id": 1}, "mcp:invalid", Result.FAILURE, 200),
        ({"method": "ping", "id": 1}, "mcp:ping", Result.SUCCESS, 200),
        ({"method": "tools/call", "id": 1, "params": {}}, "mcp:tools/call", Result.FAILURE, 200),
        ({"method": "prompts/list", "id": 1}, "mcp:prompts/list", Result.SUCCESS, 200),
        ({"method": "logging/setLevel", "id": 1}, "mcp:logging/setLevel", Result.FAILURE, 200),
    ],
)
@pytest.mark.req("I2.5", "R22")
async def test_no_message_is_recorded_as_a_success_of_what_was_not_done(
    message: dict[str, Any], action: str, result: Result, status: int
) -> None:
    world = World()
    async with client(world, **MCP) as http:
        response = await http.post("/mcp", json={"jsonrpc": "2.0"} | message)
    if "id" not in message:
        assert response.status_code == status
    assert [(event.action, event.result) for event in world.audit.events] == [(action, result)]
    assert not world.invocations


@pytest.mark.req("I2.5")
@pytest.mark.parametrize("path", [LOOK, "/mcp"])
async def test_a_client_that_leaves_before_its_body_is_complete_is_on_record(path: str) -> None:
    world = World()
    edge, _ = world.edge()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there")

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers.append((b"authorization", f"Bearer {ALICE}".encode()))
    await edge({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    await world.pipeline.drain(5)
    assert world.audit.last.result is Result.FAILURE
    assert "went away" in world.audit.last.error


@pytest.mark.parametrize(
    ("error", "result"),
    [(Unauthenticated("late"), Result.FAILURE), (Unavailable("away"), Result.ERROR), (ValueError("x"), Result.ERROR)],
)
async def test_a_refused_list_has_the_same_result_over_rest_and_mcp(error: Exception, result: Result) -> None:
    world = World()
    world.authz.error = error
    async with client(world, **MCP) as http:
        await http.get("/mcp/resources")
        await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    recorded = [(event.action, event.result, event.error) for event in world.audit.events]
    assert [entry[:2] for entry in recorded] == [("resources", result), ("mcp:tools/list", result)]
    assert recorded[0][2] == recorded[1][2]


async def test_the_trace_of_the_caller_is_kept_and_a_bad_one_replaced() -> None:
    world = World()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with client(world, **BEARER) as http:
        await http.get("/mcp/resources", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        assert world.audit.last.trace_id == trace
        await http.get("/mcp/resources", headers={"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"})
        assert len(world.audit.last.trace_id) == 32
        assert world.audit.last.trace_id != "0" * 32


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600),
    ],
)
async def test_what_is_no_json_rpc_never_reaches_the_sdk(body: bytes, code: int) -> None:
    world = World()
    async with client(world, **MCP) as http:
        response = await http.post("/mcp", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code
    assert response.json()["id"] is None
    assert world.log == ["authenticate", "record"]
    assert world.audit.last.result is Result.FAILURE
