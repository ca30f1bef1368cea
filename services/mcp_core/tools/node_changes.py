"""Nodes: cordon and uncordon. Draining is in draining.py."""

from __future__ import annotations

from typing import Any

from services.mcp_core.changes import CORDON
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.base import Invocation, ObjectName, Plan, Structured, Tool, WriteArguments, name_argument
from services.mcp_core.tools.planning import Done, Versioned, called, done, look_at_patch

NODES = Resource("", "v1", "nodes")


class CordonArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of cordon_node and uncordon_node."""

    name: ObjectName


def cordon(*, on: bool) -> dict[str, Any]:
    """The patch that closes a node to new pods, or opens it."""
    return {"spec": {"unschedulable": True if on else None}}


async def _prepare(invocation: Invocation, *, on: bool) -> Plan:
    ref = ObjectRef(NODES, "", invocation.arguments["name"])
    summary = f"{called('Node', ref)} takes {'no ' if on else ''}new pods."
    if not invocation.dry_run:
        return Plan(summary)
    return await look_at_patch(invocation, "Node", ref, cordon(on=on), summary, decided=frozenset({CORDON}))


async def _run(invocation: Invocation, *, on: bool) -> Structured:
    ref = ObjectRef(NODES, "", invocation.arguments["name"])
    written = await invocation.cluster.patch(ref, cordon(on=on), Versioned)
    return done("Node", ref, f"It takes {'no ' if on else ''}new pods{'; those there stay' if on else ''}.", written)


async def _prepare_cordon(invocation: Invocation) -> Plan:
    return await _prepare(invocation, on=True)


async def _cordon(invocation: Invocation) -> Structured:
    return await _run(invocation, on=True)


async def _prepare_uncordon(invocation: Invocation) -> Plan:
    return await _prepare(invocation, on=False)


async def _uncordon(invocation: Invocation) -> Structured:
    return await _run(invocation, on=False)


TOOLS = (
    Tool(
        name="cordon_node",
        title="Cordon a node",
        description="Closes a node to new pods; those there stay.",
        arguments=CordonArguments,
        result=Done,
        permission=CORDON,
        prepare=_prepare_cordon,
        run=_cordon,
        namespaced=False,
        idempotent=True,
        resource_name=name_argument,
    ),
    Tool(
        name="uncordon_node",
        title="Uncordon a node",
        description="Opens a node to new pods again.",
        arguments=CordonArguments,
        result=Done,
        permission=CORDON,
        prepare=_prepare_uncordon,
        run=_uncordon,
        namespaced=False,
        idempotent=True,
        resource_name=name_argument,
    ),
)
