"""The core's own account lists namespaces for callers who may see some of them, and never changes one (R2)."""

from typing import Any, cast

import pytest

from services.mcp_core.model import Action, Allowed, Permission, Scope
from services.mcp_core.placement import place
from services.mcp_core.ports import Authorizer, Cluster, Kind, Resource
from services.mcp_core.tools import REGISTRY

NAMESPACES = Kind(Resource("", "v1", "namespaces"), "Namespace", False)


class ButOne:
    """Policy that allows everything everywhere, but for what a deny rule takes out."""

    async def check(self, caller: Any, action: Action, *, anew: bool = False) -> Allowed:
        return Allowed("rule", "admin", "1", "event")

    async def list_allowed(self, caller: Any, actions: Any) -> list[Scope]:
        return [Scope(all=True, excluding=("production",)) for _ in actions]


@pytest.mark.req("R2", "I8.9")
@pytest.mark.parametrize("verb", ["delete", "patch", "create"])
async def test_no_change_of_a_namespace_is_made_as_the_core_itself(verb: str) -> None:
    tool = REGISTRY[f"{verb}_resource"]
    action = Action("c", Permission(verb, "", "namespaces"), tool.name, name="staging")
    nobody = cast("Cluster", None)
    placed = await place(cast("Authorizer", ButOne()), nobody, cast("Any", None), tool, action, kind=NAMESPACES)
    assert not placed.own_account
    assert placed.roles == ("admin",)
