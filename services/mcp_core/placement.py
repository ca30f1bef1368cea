"""Steps 2 and 3 for one call: in which namespaces it acts, and what authz says to each of them.

No namespace is guessed (R14). ``all_namespaces`` acts cluster-wide for a caller who may do so everywhere; for
others it expands to the existing namespaces that their grants name, each of which is decided by a Check of its
own. list_namespaces is decided once, and then shows only the namespaces that the caller's grants name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any

from services.common.errors import FailedPrecondition, PermissionDenied
from services.mcp_core.errors import ActionDenied
from services.mcp_core.model import Action, Allowed, Caller, Decision, Denied
from services.mcp_core.ports import Authorizer, Cluster
from services.mcp_core.tools.base import Arguments, Tool
from services.mcp_core.tools.namespaces import existing_namespaces

MAX_NAMESPACES = 100
"""Namespaces that one call may expand to."""

CLUSTER_SCOPE = ("",)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a call acts. ``decisions``: everything authz said, denials included; at least one allows."""

    action: Action
    namespaces: tuple[str, ...]
    decisions: tuple[Decision, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles whose grants allowed; "" stands for direct permissions."""
        allowed = {decision.role for decision in self.decisions if isinstance(decision, Allowed)}
        return tuple(sorted(allowed))


class Denial(ActionDenied):
    """authz denied. ``decision`` is what it said."""

    def __init__(self, decision: Denied) -> None:
        super().__init__(decision.explanation, decision.missing_permission, decision.missing_namespace)
        self.decision = decision


def resolve(cluster: str, tool: Tool, arguments: Arguments) -> Action:
    """The action behind a tool and its validated arguments (R10); namespace "" where it spans several."""
    return Action(
        cluster=cluster,
        permission=tool.permission,
        tool=tool.name,
        namespace=str(arguments.get("namespace") or ""),
        name=tool.resource_name(arguments),
        replicas=tool.attributes(arguments).replicas,
    )


async def place(authorizer: Authorizer, cluster: Cluster, caller: Caller, tool: Tool, action: Action) -> Placement:
    """Asks authz and returns where the call may act.

    Raises:
        Denial: nowhere.
        FailedPrecondition: in more namespaces than one call may touch, or in namespaces that the core may not list.
        Unauthenticated, ResourceExhausted, Unavailable: authz or the cluster could not answer.
    """
    if tool.namespaced and action.namespace:
        return await _single(authorizer, caller, action)
    (scope,) = await authorizer.list_allowed(caller, [action])
    if (scope.all and not scope.excluding) or not scope:
        return await _single(authorizer, caller, action)
    names = tuple(name for name in await _existing(cluster, caller) if scope.covers(name))
    if not tool.namespaced:
        return replace(await _single(authorizer, caller, action), namespaces=names)
    if not names:
        return await _single(authorizer, caller, action)
    if len(names) > MAX_NAMESPACES:
        raise FailedPrecondition(
            f"This call would touch {len(names)} namespaces, more than {MAX_NAMESPACES}; name one as `namespace`."
        )
    decisions = await _each(authorizer.check(caller, replace(action, namespace=name)) for name in names)
    allowed = tuple(name for name, said in zip(names, decisions, strict=True) if isinstance(said, Allowed))
    if not allowed:
        raise Denial(next(said for said in decisions if isinstance(said, Denied)))
    return Placement(action, allowed, tuple(decisions))


async def _each(checks: Iterable[Coroutine[Any, Any, Decision]]) -> list[Decision]:
    """The answers in order. Where one check fails, the others are ended, not left to run on unobserved."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(check) for check in checks]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _existing(cluster: Cluster, caller: Caller) -> tuple[str, ...]:
    try:
        return await existing_namespaces(cluster.session(None, caller.context.deadline.child()))
    except PermissionDenied:
        # The caller is denied nothing here: it is the core that lacks a right.
        raise FailedPrecondition(
            "The gate's own account may not list the namespaces of the cluster; name one as `namespace`, or let an "
            "operator apply what `kubegate cluster rbac` prints."
        ) from None


async def _single(authorizer: Authorizer, caller: Caller, action: Action) -> Placement:
    decision = await authorizer.check(caller, action)
    if isinstance(decision, Denied):
        raise Denial(decision)
    return Placement(action, (action.namespace,), (decision,))
