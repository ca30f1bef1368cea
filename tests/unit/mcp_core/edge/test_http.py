"""The HTTPS interface through the real ASGI application, on fakes of the ports."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
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
from services.mcp_core.edge.wire import parse_json
from services.mcp_core.errors import ClusterDenied, ClusterRejected, OutcomeUnknown
from services.mcp_core.model import Kind, Result
from services.mcp_core.tools.base import Invocation, Structured
from services.mcp_core.wiring import offered_tools
from tests.unit.mcp_core.edge.fakes import ALICE, BASE_URL, BOB, World

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


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"namespace": NaN}', b"[" * 20000, b"name=web"])
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


@pytest.mark.req("I2.3", "I2.5", "R22")
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "no Authorization header"),
        ([("authorization", "")], "empty credential"),
        ([("authorization", "Bearer")], "empty credential"),
        ([("authorization", "Bearer  ")], "empty credential"),
        ([("authorization", "Basic YWRtaW46YWRtaW4=")], "unknown authorization scheme"),
        ([("authorization", ALICE)], "empty credential"),
        ([("authorization", f"Bearer {ALICE} {ALICE}")], "malformed credential"),
        ([("authorization", f"Bearer {ALICE},")], "malformed credential"),
        ([("authorization", "Bearer " + "x" * 8193)], "malformed credential"),
        (
            [("authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {ALICE}")],
            "more than one Authorization header",
        ),
        ([("x-api-key", ALICE)], "no Authorization header"),
        ([("cookie", f"token={ALICE}")], "no Authorization header"),
    ],
)
@pytest.mark.parametrize("path", [LOOK, "/mcp", "/mcp/resources"])
async def test_without_one_well_formed_credential_it_is_401_and_nobody(
    headers: list[tuple[str, str]], reason: str, path: str
) -> None:
    world = World()
    async with client(world) as http:
        method = "GET" if path == "/mcp/resources" else "POST"
        response = await http.request(method, path, headers=headers)
    problem(response, 401)
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert "error=" not in challenge
    assert f'resource_metadata="{BASE_URL}/.well-known/oauth-protected-resource/mcp"' in challenge
    assert world.log == ["folded"]
    assert world.audit.last.kind is Kind.AUTHENTICATION
    assert world.audit.last.result is Result.FAILURE
    assert world.audit.last.error == reason
    assert world.audit.last.metadata["auth_type"] == "none"


@pytest.mark.req("I2.3")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "ApiKey", "APIKEY"])
async def test_the_schemes(scheme: str) -> None:
    world = World()
    async with client(world) as http:
        right = await http.get("/mcp/resources", headers={"authorization": f"{scheme} {ALICE}"})
        wrong = await http.get("/mcp/resources", headers={"authorization": f"{scheme} wrong"})
    assert right.status_code == 200
    problem(wrong, 401)
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
    assert world.authn.asked == [ALICE, "wrong"]


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


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "localhost:1:2", "localhost@evil", "[::1]", ""]
)
@pytest.mark.parametrize("path", ["/healthz", "/mcp", "/mcp/resources"])
async def test_a_foreign_host_is_421(host: str, path: str) -> None:
    world = World()
    async with client(world, **BEARER) as http:
        problem(await http.get(path, headers={"host": host, "user-agent": f"curl {KEY}"}), 421)
    assert world.log == ["folded"]
    event = world.audit.last
    assert (event.kind, event.result, event.error) == (Kind.SECURITY_VIOLATION, Result.FAILURE, "foreign host")
    assert event.metadata.get("host", "") == host
    assert KEY not in str(event)


@pytest.mark.req("R25")
async def test_foreign_hosts_are_limited_per_source() -> None:
    world = World(burst=5)
    async with client(world) as http:
        answers = [await http.get("/healthz", headers={"host": "evil.example"}) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [421] * 5 + [429] * 3


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8443", "127.0.0.1:1", "127.0.0.1"])
async def test_our_hosts_on_any_port(host: str) -> None:
    async with client(World()) as http:
        assert (await http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("http://localhost:8443", 403),
        ("null", 403),
        ("https://localhost.evil.example", 403),
        ("https://localhost:8443", 200),
        ("https://127.0.0.1", 200),
        ("https://console.example", 200),
    ],
)
async def test_a_foreign_origin_with_a_good_host_is_403(origin: str, status: int) -> None:
    world = World()
    async with client(world, **BEARER) as http:
        response = await http.get("/mcp/resources", headers={"origin": origin})
    assert response.status_code == status
    if status == 403:
        assert world.log == ["folded"]
        assert (world.audit.last.kind, world.audit.last.error) == (Kind.SECURITY_VIOLATION, "foreign origin")
        assert world.audit.last.metadata["origin"] == origin


async def test_security_headers_and_a_request_id_are_on_every_answer() -> None:
    world = World()
    async with client(world, **BEARER) as http:
        answers = [
            await http.get("/healthz"),
            await http.get("/nothing"),
            await http.get("/mcp"),
            await http.post(LOOK, json={"namespace": "default"}),
            await http.post("/mcp", json=INITIALIZE, headers=MCP),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 200, 200]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "max-age" in answer.headers["strict-transport-security"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


@pytest.mark.req("I2.4")
async def test_resources_shows_what_the_caller_may_use_and_is_recorded() -> None:
    world = World()
    async with client(world, authorization=f"Bearer {BOB}") as http:
        response = await http.get("/mcp/resources")
    body = response.json()
    assert [tool["name"] for tool in body["tools"]] == ["look"]
    assert body["tools"][0]["namespaces"] == {"all": False, "patterns": ["default", "dev-*"]}
    assert [resource["resource"] for resource in body["resources"]] == ["pods"]
    assert world.audit.last.action == "resources"
    assert world.audit.last.result is Result.SUCCESS


@pytest.mark.req("I2.3")
async def test_a_token_for_a_password() -> None:
    world = World()
    async with client(world) as http:
        good = await http.post("/auth/token", json={"username": "admin", "password": "right"})
        curl = await http.post("/auth/token", content=b'{"username":"admin","password":"right"}')
        bad = await http.post("/auth/token", json={"username": "admin", "password": "wrong"})
    assert good.json() == {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 900}
    assert curl.status_code == 200
    problem(bad, 401)
    assert "wrong" not in json.dumps([event.error for event in world.audit.events])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"username": "admin"},
        {"username": "", "password": "x"},
        {"username": 1, "password": "x"},
        {"username": "a", "password": "x", "role": "admin"},
        {"username": "a", "password": "x", "otp": 123456},
        {"username": "a", "password": "x\ud800"},
        {"username": "a\udfff", "password": "x"},
        {"username": "a", "password": "x", "\ud800": 1},
    ],
)
async def test_an_incomplete_password_request_is_400_and_recorded(fields: dict[str, Any]) -> None:
    world = World()
    async with client(world) as http:
        problem(await http.post("/auth/token", content=json.dumps(fields)), 400)
        problem(await http.post("/auth/token", content=b"{"), 400)
    assert world.log == ["folded", "folded"]
    for event in world.audit.events:
        assert (event.kind, event.action, event.result) == (Kind.AUTHENTICATION, "issue_token", Result.FAILURE)
        assert event.error == "malformed request"


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


@pytest.mark.req("R25")
async def test_a_flood_is_stopped_at_the_edge_and_a_known_client_behind_it_goes_on() -> None:
    world = World(burst=10)
    async with client(world) as http:
        assert (await http.get("/mcp/resources", headers=BEARER)).status_code == 200
        flood = [await http.get("/mcp/resources", headers={"authorization": f"Bearer no{n}"}) for n in range(15)]
        anonymous = await http.get("/mcp/resources")
        assert [answer.status_code for answer in flood] == [401] * 10 + [429] * 5
        assert anonymous.status_code == 429
        assert int(flood[-1].headers["retry-after"]) >= 1
        assert len(world.authn.asked) == 11
        recorded = [event for event in world.audit.events if "too many" in event.error]
        assert [event.kind for event in recorded] == [Kind.AUTHENTICATION], "the first is recorded before its answer"
        assert (await http.post(LOOK, json={"namespace": "default"}, headers=BEARER)).status_code == 200
        problem(await http.get("/mcp/resources", headers={"authorization": f"Bearer {BOB}"}), 429)
        world.clock.advance(5)
        assert (await http.get("/mcp/resources", headers={"authorization": f"Bearer {BOB}"})).status_code == 200
    await world.pipeline.drain(5)
    counted = [event.metadata["throttled"] for event in world.audit.events if "throttled" in event.metadata]
    assert counted == ["6"], "the others are counted: of seven refusals the first has a record of its own"


@pytest.mark.req("R25")
async def test_a_credential_that_is_refused_later_is_limited_again() -> None:
    world = World(burst=5)
    async with client(world) as http:
        assert (await http.get("/mcp/resources", headers=BEARER)).status_code == 200
        world.authn.error = Unauthenticated("The credential is not valid.")
        statuses = [(await http.get("/mcp/resources", headers=BEARER)).status_code for _ in range(8)]
    assert statuses == [401] * 6 + [429] * 2


async def test_health_readiness_and_metadata_need_no_credential() -> None:
    world = World()
    async with client(world) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).text == "ready\n"
        world.cluster.error = Unavailable("cannot be reached; check the kubeconfig.")
        world.clock.advance(2)
        waiting = await http.get("/readyz")
        assert waiting.status_code == 503
        assert waiting.text == "cluster: cannot be reached; check the kubeconfig.\n"
        assert waiting.headers["retry-after"] == "1"
        world.cluster.error = None
        world.clock.advance(2)
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get("/.well-known/jwks.json")).json() == {"keys": []}
        assert (await http.get("/.well-known/jwks.json")).json() == {"keys": []}
        for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
            assert (await http.get(path)).json()["resource"] == f"{BASE_URL}/mcp"
        assert world.log.count("jwks") == 1
        world.authn.jwks_kept = None
        assert (await http.get("/.well-known/jwks.json")).json() == {"keys": []}
    assert world.log.count("jwks") == 2, "what may not hold any more is asked for again"


async def test_openapi_describes_every_tool_with_its_schemas() -> None:
    world = World()
    async with client(world) as http:
        body = (await http.get("/openapi.json")).json()
    assert body["openapi"] == "3.1.0"
    assert {path for path in body["paths"] if path.startswith("/mcp/tools/")} == {
        f"/mcp/tools/{name}" for name in world.registry
    }
    look = body["paths"]["/mcp/tools/look"]["post"]
    assert look["requestBody"]["content"]["application/json"]["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("DELETE", "/mcp", "POST"), ("GET", LOOK, "POST"), ("POST", "/mcp/resources", "GET")]
)
async def test_another_method_is_405(method: str, path: str, allow: str) -> None:
    async with client(World(), **BEARER) as http:
        response = await http.request(method, path)
    problem(response, 405)
    assert response.headers["allow"] == allow


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


@pytest.mark.req("I2.3")
async def test_the_credential_is_gone_before_anything_behind_step_1(monkeypatch: Any) -> None:
    world = World()
    seen: list[Any] = []
    edge, endpoint = world.edge()

    async def spy(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope))
        await original(scope, receive, send)

    original = endpoint._answers.handle_request
    monkeypatch.setattr(endpoint._answers, "handle_request", spy)
    transport = httpx.ASGITransport(app=edge, client=("192.0.2.1", 1))
    async with endpoint.running(), httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http:
        await http.post("/mcp", json=INITIALIZE, headers=MCP)
    assert seen
    assert ALICE not in str(seen)


async def test_a_read_only_installation_has_no_tool_that_changes_anything() -> None:
    assert all(tool.read_only for tool in offered_tools("read_only").values())
    assert set(offered_tools("all")) > set(offered_tools("read_only")) > set()
