"""Paths beside the calls of tools: resources, tokens, health, OpenAPI; other methods."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.common.errors import (
    Unavailable,
)
from services.mcp_core.model import Kind, Result
from services.mcp_core.wiring import offered_tools
from tests.unit.mcp_core.edge.fakes import BASE_URL, BOB, World
from tests.unit.mcp_core.edge.requests import BEARER, LOOK, client, problem


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


async def test_a_read_only_installation_has_no_tool_that_changes_anything() -> None:
    assert all(tool.read_only for tool in offered_tools("read_only").values())
    assert set(offered_tools("all")) > set(offered_tools("read_only")) > set()
