"""Steps 2 and 3 for one call: what it does to which kind, in which namespaces, and what authz says to each of them.

The action follows from the resolved kind, whatever the tool is called: list_resources of pods asks exactly what
list_pods asks (R10). No namespace is guessed (R14). ``all_namespaces`` acts cluster-wide for a caller who may do so
everywhere; for others it expands to the existing namespaces that their grants name, each of which is decided by a
Check of its own. Listing namespaces is decided once, and then shows only those that the caller's grants name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.common.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from services.mcp_core.errors import ActionDenied
from services.mcp_core.model import Action, Allowed, Caller, Decision, Denied
from services.mcp_core.ports import Authorizer, Cluster, Kind
from services.mcp_core.tools.base import Arguments, Need, Permission, Tool
from services.mcp_core.tools.namespaces import existing_namespaces

MAX_NAMESPACES = 100
"""Namespaces that one call may expand to."""

AT_ONCE = 128
"""Questions to authz at the same time for one call, so that a node full of pods leaves room for others."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a call acts. ``decisions``: everything authz said, denials included; at least one allows.

    granted: the permissions that were allowed. own_account: the cluster is asked as the core itself, since no
    cluster role lets a caller list only some namespaces.
    """

    action: Action
    namespaces: tuple[str, ...]
    decisions: tuple[Decision, ...]
    granted: frozenset[str] = frozenset()
    own_account: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles whose grants allowed; "" stands for direct permissions."""
        allowed = {decision.role for decision in self.decisions if isinstance(decision, Allowed)}
        return tuple(sorted(allowed))


class Denial(ActionDenied):
    """authz denied. ``decision`` is what it said; ``why``: a sentence on what made the permission necessary."""

    def __init__(self, decision: Denied, why: str = "") -> None:
        explanation = f"{decision.explanation} {why}" if why else decision.explanation
        super().__init__(explanation, decision.missing_permission, decision.missing_namespace)
        self.decision = decision


def resolve(cluster: str, tool: Tool, arguments: Arguments, kind: Kind | None = None) -> Action:
    """The action behind a tool and its validated arguments (R10); namespace "" where it spans several.

    ``kind``: the one that the arguments name, for tools that take any.

    Raises:
        InvalidArgument: a namespace is missing, or given for what lies outside namespaces.
    """
    permission = tool.permission
    namespace = str(arguments.get("namespace") or "")
    if kind is not None:
        if tool.permission_on is not None:
            permission = tool.permission_on(arguments, kind.resource)
        else:
            permission = Permission(permission.verb, kind.resource.group, kind.resource.plural)
        everywhere = bool(arguments.get("all_namespaces"))
        if namespace and everywhere:
            raise InvalidArgument("Arguments `namespace` and `all_namespaces` exclude each other.")
        if not kind.namespaced and (namespace or everywhere):
            raise InvalidArgument(f"{kind.name} lies outside namespaces: leave `namespace` and `all_namespaces` out.")
        if kind.namespaced and not tool.anywhere and not (namespace or everywhere):
            whole = ", or `all_namespaces: true`" if tool.lists else ""
            raise InvalidArgument(f"Argument `namespace` is required{whole}; none is assumed.")
    elif tool.permission_for is not None:
        permission = tool.permission_for(arguments)
    return Action(
        cluster=cluster,
        permission=permission,
        tool=tool.name,
        namespace=namespace,
        name=tool.resource_name(arguments),
        replicas=tool.attributes(arguments).replicas,
    )


async def place(
    authorizer: Authorizer,
    cluster: Cluster,
    caller: Caller,
    tool: Tool,
    action: Action,
    *,
    kind: Kind | None = None,
    needs: tuple[Need, ...] = (),
) -> Placement:
    """Asks authz and returns where the call may act.

    Raises:
        Denial: nowhere, or a permission that the call cannot do without is missing.
        FailedPrecondition: in more namespaces than one call may touch, or in namespaces that the core may not list.
        Unauthenticated, ResourceExhausted, Unavailable: authz or the cluster could not answer.
    """
    namespaced = tool.namespaced if kind is None else kind.namespaced
    placement = await _place(authorizer, cluster, caller, tool, action, namespaced=namespaced)
    return await further(authorizer, caller, replace(placement, granted=frozenset({str(action.permission)})), needs)


def placed(action: Action, needs: Sequence[Need]) -> list[Action]:
    """What a call cannot do without: its own action, and what it needs beside it."""
    return [action, *(_needed(action, need) for need in needs if need.required)]


def _needed(action: Action, need: Need) -> Action:
    namespace = "" if need.in_cluster else need.namespace or action.namespace
    # Policy may read the name. It is the object's also where the need concerns another subresource or verb of it, or
    # what only kubegate knows of; objects of other kinds have names of their own.
    needed, own = need.permission, action.permission
    same = needed.group == "kubegate" or (needed.group, needed.resource) == (own.group, own.resource)
    name = need.name or (action.name if same and not need.namespace else "")
    return replace(action, permission=needed, namespace=namespace, name=name)


async def further(authorizer: Authorizer, caller: Caller, placement: Placement, needs: tuple[Need, ...]) -> Placement:
    """The same with what authz says to further permissions of the call.

    Raises:
        Denial: one that the call cannot do without is missing. Otherwise as `place`.
    """
    if not needs:
        return placement
    action = placement.action
    said = await _each(authorizer.check(caller, _needed(action, need)) for need in needs)
    granted = set(placement.granted)
    for need, decision in zip(needs, said, strict=True):
        if isinstance(decision, Allowed):
            granted.add(str(need.permission))
        elif need.required:
            raise Denial(decision, need.why)
    return replace(placement, decisions=(*placement.decisions, *said), granted=frozenset(granted))


async def _place(
    authorizer: Authorizer, cluster: Cluster, caller: Caller, tool: Tool, action: Action, *, namespaced: bool
) -> Placement:
    said = action.permission
    listing_namespaces = (said.verb, said.group, said.resource) == ("list", "", "namespaces")
    if action.namespace or not (namespaced or listing_namespaces):
        return await _single(authorizer, caller, action)
    (scope,) = (await authorizer.list_allowed(caller, (replace(action, name=""),))).each
    if (scope.all and not scope.excluding) or not scope:
        return await _single(authorizer, caller, action)
    names = tuple(name for name in await _existing(cluster, caller) if scope.covers(name))
    if listing_namespaces:
        if action.name and action.name not in names:
            # The permission is shared by all namespaces of the grants, but this one is not among them.
            text = str(action.permission)
            raise ActionDenied(f"{text} is not granted for namespace {action.name}.", text, action.name)
        return replace(await _single(authorizer, caller, replace(action, name="")), namespaces=names, own_account=True)
    if not names:
        return await _single(authorizer, caller, action)
    if tool.anywhere:
        return await _single(authorizer, caller, replace(action, namespace=names[0]))
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
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(check: Coroutine[Any, Any, Decision]) -> Decision:
        async with slots:
            return await check

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(check)) for check in checks]
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
