"""What a caller is shown: the tools that it may use somewhere, from one question to authz for all of them.

A hint that is decided again at every call. Lists of tools, prompts, resources and completions all come from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.mcp_core.catalog import Catalog
from services.mcp_core.model import Action, Caller, Permission, Scope
from services.mcp_core.ports import Authorizer
from services.mcp_core.tools.base import Tool

MAX_CUSTOM = 100
"""Most custom kinds that are asked about."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool that a caller may use, and where. ``permissions``: those of the tool's that are granted somewhere."""

    tool: Tool
    scope: Scope
    permissions: tuple[Permission, ...] = ()


class Offers:
    """Asks authz for one cluster's tools."""

    def __init__(self, registry: Mapping[str, Tool], authorizer: Authorizer, catalog: Catalog, cluster: str) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._catalog = catalog
        self._cluster = cluster

    async def of(self, caller: Caller) -> list[Offer]:
        """What the caller may use, in the order of the registry.

        Raises:
            Unauthenticated, ResourceExhausted, Unavailable: authz did not answer.
        """
        custom = [kind.resource for kind in self._catalog.known() if "." in kind.resource.group]
        asked: list[tuple[Tool, Permission]] = []
        for tool in self._registry.values():
            known = [Permission(tool.permission.verb, kind.group, kind.plural) for kind in custom[:MAX_CUSTOM]]
            permissions = (*(tool.offered_for or (tool.permission,)), *(known if tool.any_kind else ()))
            asked += [(tool, permission) for permission in dict.fromkeys(permissions)]
        actions = tuple(Action(self._cluster, permission, tool.name) for tool, permission in asked)
        scopes = (await self._authorizer.list_allowed(caller, actions)).each
        offers: dict[str, Offer] = {}
        for (tool, permission), scope in zip(asked, scopes, strict=True):
            if scope:
                before = offers.get(tool.name, Offer(tool, Scope()))
                patterns = dict.fromkeys((*before.scope.patterns, *scope.patterns))
                whole = before.scope.all or scope.all
                merged = Scope(whole, () if whole else tuple(patterns))
                offers[tool.name] = Offer(tool, merged, (*before.permissions, permission))
        return list(offers.values())
