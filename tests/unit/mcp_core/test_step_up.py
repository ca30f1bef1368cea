"""Which scopes are named for a call of several parts: all that it lacks, at once, and no more (I6.21)."""

from __future__ import annotations

import pytest

from services.mcp_core.model import Action, Suggestion
from services.mcp_core.step_up import missing_scopes
from services.mcp_core.tools.base import Permission
from tests.unit.mcp_core.edge.fakes import World

OBTAINABLE = (("ops", "operator"), ("read", "viewer"), ("root", "admin"), ("also-ops", "operator"))
PARTS = ("pods", "secrets", "nodes")
YES, NEVER = Suggestion(True), Suggestion(False)


def lacks(*roles: str) -> Suggestion:
    return Suggestion(False, roles)


@pytest.mark.req("I6.21")
@pytest.mark.parametrize(
    ("parts", "scopes"),
    [
        ((lacks("viewer", "admin"), lacks("operator", "admin"), YES), ("also-ops", "read")),
        ((lacks("viewer", "admin"), lacks("viewer"), YES), ("read",)),
        ((lacks("admin"), lacks("viewer", "admin"), lacks("operator", "admin")), ("root",)),
        ((lacks("viewer"), NEVER, YES), ()),
        ((lacks("viewer"), lacks("unheard-of"), YES), ()),
        ((YES, YES, YES), ()),
    ],
)
async def test_scopes_of_a_call_of_three_parts(parts: tuple[Suggestion, ...], scopes: tuple[str, ...]) -> None:
    world = World()
    world.authn.obtainable = OBTAINABLE
    caller = await world.caller()
    actions = [Action("test", Permission("list", "", part), "look", "default") for part in PARTS]
    world.authz.suggestions = {f"k8s:{part}:list": said for part, said in zip(PARTS, parts, strict=True)}
    assert await missing_scopes(world.authz, caller, actions) == scopes
