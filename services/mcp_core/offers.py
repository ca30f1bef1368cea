"""What a caller is shown: the tools that it may use somewhere, from one question to authz for all of them.

A hint that is decided again at every call. Lists of tools, prompts, resources and completions all come from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.mcp_core.clusters import Clusters, Target
from services.mcp_core.model import Action, Caller, Permission, Scope
from services.mcp_core.ports import Authorizer
from services.mcp_core.tools.base import Tool

MAX_CUSTOM = 100
"""Most custom kinds that are asked about."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool that a caller may use, and where. ``permissions``: those of the tool's that are granted somewhere;
    ``clusters``: in which."""

    tool: Tool
    scope: Scope
    permissions: tuple[Permission, ...] = ()
    clusters: tuple[str, ...] = ()


class Offers:
    """Asks authz for the tools of all clusters."""

    def __init__(self, registry: Mapping[str, Tool], authorizer: Authorizer, clusters: Clusters) -> None:
        self._registry = registry
        self._authorizer = authorizer
        self._clusters = clusters

    async def of(self, caller: Caller) -> list[Offer]:
        """What the caller may use, in the order of the registry.

        Raises:
            Unauthenticated, ResourceExhausted, Unavailable: authz did not answer.
        """
        asked = [each for target in self._clusters for each in self._questions(target)]
        scopes = (await self._authorizer.list_allowed(caller, tuple(action for _, action in asked))).each
        offers: dict[str, Offer] = {}
        for (tool, action), scope in zip(asked, scopes, strict=True):
            if scope:
                before = offers.get(tool.name, Offer(tool, Scope()))
                patterns = dict.fromkeys((*before.scope.patterns, *scope.patterns))
                whole = before.scope.all or scope.all
                merged = Scope(whole, () if whole else tuple(patterns))
                permissions = dict.fromkeys((*before.permissions, action.permission))
                clusters = dict.fromkeys((*before.clusters, action.cluster))
                offers[tool.name] = Offer(tool, merged, tuple(permissions), tuple(clusters))
        return [offers[name] for name in self._registry if name in offers]

    def _questions(self, target: Target) -> Iterator[tuple[Tool, Action]]:
        custom = [kind.resource for kind in target.catalog.known() if "." in kind.resource.group]
        for tool in self._registry.values():
            known = [Permission(tool.permission.verb, kind.group, kind.plural) for kind in custom[:MAX_CUSTOM]]
            permissions = (*(tool.offered_for or (tool.permission,)), *(known if tool.any_kind else ()))
            for permission in dict.fromkeys(permissions):
                yield tool, Action(target.cluster.name, permission, tool.name)
