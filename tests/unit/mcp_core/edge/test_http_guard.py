"""What the edge refuses before it knows anybody: hosts, origins, credentials, floods; and what every answer carries."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from services.common.errors import (
    Unauthenticated,
)
from services.mcp_core.model import Kind, Result
from tests.unit.mcp_core.edge.fakes import ALICE, BASE_URL, BOB, World
from tests.unit.mcp_core.edge.requests import BEARER, INITIALIZE, KEY, LOOK, MCP, client, problem


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
