"""What `POST /auth/token` takes for a token exchange, and how it refuses the rest (RFC 8693)."""

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from services.common.errors import InvalidArgument, PermissionDenied
from services.mcp_core.edge.token_request import EXCHANGE
from services.mcp_core.model import TokenExchange
from tests.unit.mcp_core.edge.fakes import World
from tests.unit.mcp_core.edge.requests import client, problem

TYPE = "urn:ietf:params:oauth:token-type:access_token"
ASKED = {"grant_type": EXCHANGE, "subject_token": "a.b.c", "subject_token_type": TYPE, "scope": "viewer"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.req("I3.5", "I3.9")
async def test_an_exchange_is_taken_as_a_form_and_as_json() -> None:
    world = World()
    whole = {**ASKED, "actor_token": "d.e.f", "actor_token_type": TYPE, "audience": ["x", "y"], "resource": "https://r"}
    async with client(world) as http:
        by_form = await http.post("/auth/token", content=urlencode(whole, doseq=True), headers=FORM)
        by_json = await http.post("/auth/token", json=whole)
    for answer in (by_form, by_json):
        assert answer.status_code == 200
        assert answer.json() == {
            "access_token": "d.e.f",
            "token_type": "Bearer",
            "expires_in": 60,
            "issued_token_type": "a type",
            "scope": "viewer",
        }
        assert answer.headers["cache-control"] == "no-store"
    expected = TokenExchange("a.b.c", TYPE, "d.e.f", TYPE, "viewer", "", ("x", "y"), ("https://r",))
    assert world.authn.exchanges == [expected, expected]


@pytest.mark.req("I3.5")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grant_type": "password"}, "grant_type"),
        ({"grant_type": None}, "grant_type"),
        ({"username": "admin"}, "username"),
        ({"subject_token": 1}, "subject_token"),
        ({"subject_token": "x" * 8193}, "subject_token"),
        ({"scope": ["viewer"]}, "scope"),
        ({"scope": "x\ud800"}, "scope"),
        ({"audience": [1]}, "audience"),
        ({"audience": ["x"] * 9}, "audience"),
        ({"resource": {}}, "resource"),
    ],
)
async def test_a_malformed_exchange_is_400_says_what_and_is_recorded(change: dict[str, Any], says: str) -> None:
    world = World()
    fields = {name: value for name, value in {**ASKED, **change}.items() if value is not None}
    async with client(world) as http:
        answer = await http.post("/auth/token", content=json.dumps(fields))
    problem(answer, 400)
    assert says in answer.json()["detail"]
    assert "a.b.c" not in answer.text
    assert world.log == ["folded"]


@pytest.mark.req("I3.5")
@pytest.mark.parametrize(
    "body", [b"a=1&a=2", b"subject_token=%ff", b"x", b"a=%C3%28", "a=é".encode(), b"&".join([b"a=1"] * 40)]
)
async def test_a_malformed_form_is_400(body: bytes) -> None:
    world = World()
    async with client(world) as http:
        problem(await http.post("/auth/token", content=body, headers=FORM), 400)


@pytest.mark.req("I3.5")
@pytest.mark.parametrize(
    ("error", "status"), [(InvalidArgument("only narrows"), 400), (PermissionDenied("another"), 403)]
)
async def test_what_is_not_given_is_told_with_its_reason(error: Exception, status: int) -> None:
    world = World()
    world.authn.error = error
    async with client(world) as http:
        answer = await http.post("/auth/token", json=ASKED)
    problem(answer, status)
    assert answer.json()["detail"] == str(error)
