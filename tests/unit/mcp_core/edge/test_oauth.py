"""The edge as an OAuth protected resource: metadata (RFC 9728), challenges, and which scopes a denial names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from services.common.errors import Unavailable
from services.mcp_core.edge.oauth import FRESH_SECONDS, RETRY_SECONDS
from services.mcp_core.model import AuthorizationServer, Suggestion
from tests.unit.mcp_core.edge.fakes import ALICE, BASE_URL, BOB, World

PATHS = ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp")
ONE = AuthorizationServer("https://one.example", ("kube:ops", "kube:read"), ("kube:read",))
TWO = AuthorizationServer("https://two.example/realm", ("kube:read", "kube:secrets"), ("kube:read", "kube:secrets"))
SCALE = "k8s:deployments:scale"
CHANGE = {"name": "web", "namespace": "default"}


@asynccontextmanager
async def client(world: World, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    edge, endpoint = world.edge()
    transport = httpx.ASGITransport(app=edge, client=("192.0.2.1", 4711))
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with endpoint.running(), httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as http:
        yield http


@pytest.mark.req("I6.20")
async def test_metadata_names_every_authorization_server_at_the_root_and_below() -> None:
    world = World()
    async with client(world) as http:
        bare = [(await http.get(path)).json() for path in PATHS]
        assert (
            bare[0]
            == bare[1]
            == {
                "resource": f"{BASE_URL}/mcp",
                "resource_name": "kubegate",
                "bearer_methods_supported": ["header"],
            }
        )
        world.authn.servers = (ONE, TWO)
        world.clock.advance(FRESH_SECONDS)
        for path in PATHS:
            assert (await http.get(path)).json() == bare[0] | {
                "authorization_servers": ["https://one.example", "https://two.example/realm"],
                "scopes_supported": ["kube:ops", "kube:read", "kube:secrets"],
            }
    assert world.authn.asked_for_servers == 2, "once for each time, whoever asks"


@pytest.mark.req("I6.20")
async def test_without_authn_there_is_no_metadata_but_still_a_challenge() -> None:
    world = World()
    world.authn.servers = (ONE,)
    async with client(world) as http:
        known = await http.get("/mcp/resources")
        world.authn.error = Unavailable("The authn service cannot be reached.")
        world.clock.advance(FRESH_SECONDS)
        assert (await http.get(PATHS[0])).status_code == 503
        again = await http.get("/mcp/resources")
        for _ in range(5):
            await http.get("/mcp/resources")
        assert world.authn.asked_for_servers == 2, "away is away for a while: nobody waits for it one by one"
        world.authn.error = None
        world.clock.advance(RETRY_SECONDS)
        assert (await http.get(PATHS[0])).json()["authorization_servers"] == [ONE.issuer]
    assert known.status_code == again.status_code == 401
    assert known.headers["www-authenticate"] == again.headers["www-authenticate"]


@pytest.mark.req("I6.20")
async def test_the_challenge_names_metadata_and_first_scopes_and_an_error_only_after_a_token() -> None:
    world = World()
    world.authn.servers = (ONE, TWO)
    expected = f'Bearer realm="kubegate", resource_metadata="{BASE_URL}{PATHS[1]}", scope="kube:read kube:secrets"'
    async with client(world) as http:
        for path, method in (("/mcp", "POST"), ("/mcp/resources", "GET"), ("/mcp/tools/look", "POST")):
            bare = await http.request(method, path)
            wrong = await http.request(method, path, headers={"authorization": "Bearer wrong"})
            assert bare.status_code == wrong.status_code == 401
            assert bare.headers.get_list("www-authenticate") == [expected, 'ApiKey realm="kubegate"']
            assert wrong.headers.get_list("www-authenticate")[0] == f'{expected}, error="invalid_token"'


def denied(response: httpx.Response) -> str:
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.headers.get("www-authenticate", ""))


def challenge(scopes: str) -> str:
    return (
        f'Bearer realm="kubegate", error="insufficient_scope", scope="{scopes}", '
        f'resource_metadata="{BASE_URL}{PATHS[1]}"'
    )


def call(**arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "change", "arguments": arguments}}


MCP = {"accept": "application/json, text/event-stream"}


@pytest.mark.req("I6.21")
@pytest.mark.parametrize("progress", [False, True])
async def test_a_denial_that_a_scope_would_lift_is_403_over_rest_and_mcp(progress: bool) -> None:
    world = World()
    world.authn.obtainable = (("kube:ops", "operator"), ("kube:read", "viewer"))
    world.authz.suggestions = {SCALE: Suggestion(False, ("operator",))}
    message = call(**CHANGE)
    if progress:
        message["params"]["_meta"] = {"progressToken": "p"}
    async with client(world, BOB) as http:
        over_rest = await http.post("/mcp/tools/change", json=CHANGE)
        over_mcp = await http.post("/mcp", json=message, headers=MCP)
    assert denied(over_rest) == denied(over_mcp) == challenge("kube:ops")
    assert [event.metadata["missing_scopes"] for event in world.audit.events] == ["kube:ops"] * 2
    assert [event.action for event in world.audit.events] == ["change"] * 2, "each is recorded once"
    assert not world.invocations


@pytest.mark.req("I6.21")
@pytest.mark.parametrize(
    ("obtainable", "suggestion"),
    [
        ((), Suggestion(False, ("operator",))),
        ((("kube:ops", "operator"),), Suggestion(False, ())),
        ((("kube:ops", "operator"),), Suggestion(True)),
        ((("kube:ops", "operator"),), Suggestion(False, ("admin",))),
    ],
    ids=["a key has no scopes", "no role would do", "allowed meanwhile", "a role that nobody offered"],
)
async def test_where_no_scope_can_be_obtained_none_is_named(
    obtainable: tuple[tuple[str, str], ...], suggestion: Suggestion
) -> None:
    world = World()
    world.authn.obtainable = obtainable
    world.authz.suggestions = {SCALE: suggestion}
    async with client(world, BOB) as http:
        assert denied(await http.post("/mcp/tools/change", json=CHANGE)) == ""
        over_mcp = await http.post("/mcp", json=call(**CHANGE), headers=MCP)
        assert (over_mcp.status_code, over_mcp.json()["result"]["isError"]) == (200, True)
        unknown = await http.post("/mcp/tools/nothing", json={})
        assert denied(unknown) == "", "no scope gives what does not exist"
    assert ("suggest" in world.log) is bool(obtainable)


@pytest.mark.req("I6.21")
async def test_a_denial_stands_without_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.authn.obtainable = (("kube:ops", "operator"),)

    async def away(*_: Any) -> list[Suggestion]:
        raise Unavailable("The authz service cannot be reached.")

    monkeypatch.setattr(world.authz, "suggest_roles", away)
    async with client(world, BOB) as http:
        assert denied(await http.post("/mcp/tools/change", json=CHANGE)) == ""


@pytest.mark.req("I6.21")
async def test_nothing_is_asked_about_a_call_that_is_allowed() -> None:
    world = World()
    world.authn.obtainable = (("kube:ops", "operator"),)
    async with client(world, ALICE) as http:
        assert (await http.post("/mcp/tools/change", json=CHANGE)).status_code == 200
    assert "suggest" not in world.log
