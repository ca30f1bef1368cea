"""Nodes: list."""

from __future__ import annotations

from typing import Any

import msgspec

from services.mcp_core.ports import Resource
from services.mcp_core.redaction import redact
from services.mcp_core.redaction_objects import redact_named
from services.mcp_core.tools.base import ClusterListArguments, Invocation, Permission, Structured, Tool
from services.mcp_core.tools.listing import Listing, Meta, list_objects, listed
from services.mcp_core.tools.pod_detail import Condition

NODES = Resource("", "v1", "nodes")
NODES_PERMISSION = Permission("list", "", "nodes")

_ROLE = "node-role.kubernetes.io/"


class NodeMeta(Meta, frozen=True, rename="camel"):
    """What is read of a node's metadata."""

    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Taint(msgspec.Struct, frozen=True):
    """What keeps pods off a node."""

    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(msgspec.Struct, frozen=True):
    """What is read of a node's specification."""

    unschedulable: bool = False
    taints: list[Taint] = []


class NodeInfo(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of what runs on a node."""

    kubelet_version: str = ""


class Address(msgspec.Struct, frozen=True):
    """An address of a node."""

    type: str
    address: str


class NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a node's status."""

    conditions: list[Condition] | None = None
    node_info: NodeInfo = NodeInfo()
    addresses: list[Address] = []
    allocatable: dict[str, Any] = {}


class Node(msgspec.Struct, frozen=True):
    """What is read of a node."""

    metadata: NodeMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class NodeSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A node in an answer. `problems`: conditions that are not as they should be."""

    name: str = ""
    status: str = ""
    roles: list[str] = []
    version: str = ""
    created: str = ""
    address: str = ""
    allocatable: dict[str, str] = {}
    taints: list[str] = []
    problems: list[str] = []


class NodeList(Listing, frozen=True, kw_only=True):
    """Answer of list_nodes."""

    nodes: list[NodeSummary]


def problems_of(node: Node) -> list[str]:
    """What is wrong with a node, in its own words."""
    wrong = [
        one
        for one in node.status.conditions or ()
        if (one.status != "True" if one.type == "Ready" else one.status == "True")
    ]
    return [f"{one.type}={one.status}: {redact(one.reason)} {redact(one.message)[:300]}".strip() for one in wrong]


def summarize(node: Node) -> NodeSummary:
    """A node as an answer shows it; `status` as kubectl does."""
    ready = next((one.status for one in node.status.conditions or () if one.type == "Ready"), "Unknown")
    status = {"True": "Ready", "False": "NotReady"}.get(ready, "Unknown")
    shown = ("cpu", "memory", "pods")
    return NodeSummary(
        name=node.metadata.name,
        status=f"{status},SchedulingDisabled" if node.spec.unschedulable else status,
        roles=sorted(label.removeprefix(_ROLE) for label in node.metadata.labels if label.startswith(_ROLE)),
        version=node.status.node_info.kubelet_version,
        created=node.metadata.creation_timestamp,
        address=next((one.address for one in node.status.addresses if one.type == "InternalIP"), ""),
        allocatable={key: str(value) for key, value in node.status.allocatable.items() if key in shown},
        taints=[f"{one.key}={redact_named(one.key, one.value)}:{one.effect}" for one in node.spec.taints],
        problems=problems_of(node),
    )


async def _list_nodes(invocation: Invocation) -> Structured:
    found = await list_objects(invocation, NODES, Node, summarize)
    return listed("nodes", found, invocation.arguments, NodeSummary)


TOOLS = (
    Tool(
        name="list_nodes",
        title="List nodes",
        description="Nodes with readiness, roles, version, allocatable resources, taints and problems.",
        arguments=ClusterListArguments,
        result=NodeList,
        permission=NODES_PERMISSION,
        run=_list_nodes,
        namespaced=False,
        read_only=True,
        idempotent=True,
    ),
)
