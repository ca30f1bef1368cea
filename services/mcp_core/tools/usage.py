"""What pods and nodes use right now, by metrics.k8s.io: the hungriest first.

Usage is a part of the pod or node, so it needs the permission to list these.
"""

from __future__ import annotations

import heapq
import re
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import FailedPrecondition, NotFound, Unavailable
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.base import Invocation, Permission, Selector, Structured, Tool
from services.mcp_core.tools.listing import PAGE
from services.mcp_core.tools.nodes import NODES, NODES_PERMISSION, Node

POD_METRICS = Resource("metrics.k8s.io", "v1beta1", "pods")
NODE_METRICS = Resource("metrics.k8s.io", "v1beta1", "nodes")

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(n|u|m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_FACTORS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class TopPodsArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of top_pods."""

    namespace: Annotated[str, Constraint(pattern=DNS1123_LABEL, description="Of this namespace.")] | UnsetType = UNSET
    all_namespaces: Annotated[
        bool, Constraint(description="Instead of `namespace`: of every namespace whose pods you may list.")
    ] = False
    label_selector: Selector = ""
    sort_by: Literal["cpu", "memory"] = "cpu"
    limit: Annotated[int, Constraint(ge=1, le=500, description="How many of the hungriest.")] = 20


class TopNodesArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of top_nodes."""

    sort_by: Literal["cpu", "memory"] = "cpu"
    limit: Annotated[int, Constraint(ge=1, le=500, description="How many of the hungriest.")] = 20


class Name(msgspec.Struct, frozen=True):
    """Whose usage it is."""

    name: str
    namespace: str = ""


class Used(msgspec.Struct, frozen=True):
    """Quantities as Kubernetes writes them."""

    cpu: str = "0"
    memory: str = "0"


class ContainerUse(msgspec.Struct, frozen=True):
    """Usage of a container."""

    usage: Used = Used()


class PodUse(msgspec.Struct, frozen=True):
    """What is read of PodMetrics."""

    metadata: Name
    containers: list[ContainerUse] = []


class NodeUse(msgspec.Struct, frozen=True):
    """What is read of NodeMetrics."""

    metadata: Name
    usage: Used = Used()


class PodUsage(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A pod in an answer: thousandths of a core, and MiB."""

    name: str
    namespace: str
    cpu_millicores: int
    memory_mib: int


class NodeUsage(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A node in an answer; shares are percent of what pods may have of it."""

    name: str
    cpu_millicores: int
    cpu_percent: int
    memory_mib: int
    memory_percent: int


class TopPods(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of top_pods."""

    pods: list[PodUsage]
    truncated: bool


class TopNodes(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of top_nodes."""

    nodes: list[NodeUsage]
    truncated: bool


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number; 0 for what is none."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return 0.0
    return float(found[1]) * (_FACTORS.get(found[2] or "", 0) or _BINARY.get(found[2] or "", 1))


def _no_metrics(error: NotFound | Unavailable) -> FailedPrecondition:
    return FailedPrecondition(
        "The cluster has no usage to show: metrics.k8s.io is not served there, or has nothing yet "
        f"(metrics-server serves it). {error.public_message}"
    )


async def _top_pods(invocation: Invocation) -> Structured:
    arguments = invocation.arguments
    by_memory, limit = arguments["sort_by"] == "memory", arguments["limit"]
    held: list[tuple[float, str, str, PodUsage]] = []
    seen = 0
    for namespace in invocation.namespaces:
        after = ""
        while True:
            try:
                page = await invocation.cluster.list(
                    ObjectRef(POD_METRICS, namespace),
                    PodUse,
                    label_selector=arguments["label_selector"],
                    limit=PAGE,
                    after=after,
                )
            except (NotFound, Unavailable) as error:
                raise _no_metrics(error) from error
            for pod in page.items:
                cpu = sum(quantity(one.usage.cpu) for one in pod.containers)
                memory = sum(quantity(one.usage.memory) for one in pod.containers)
                name, place = pod.metadata.name, pod.metadata.namespace
                usage = PodUsage(name, place, round(cpu * 1000), round(memory / 2**20))
                seen += 1
                heapq.heappush(held, (memory if by_memory else cpu, place, name, usage))
                if len(held) > limit:
                    heapq.heappop(held)
            after = page.after
            if not (page.truncated and after):
                break
    ranked = [usage for _, _, _, usage in sorted(held, key=lambda one: one[:3], reverse=True)]
    return {"pods": msgspec.to_builtins(ranked), "truncated": seen > len(ranked)}


async def _top_nodes(invocation: Invocation) -> Structured:
    arguments = invocation.arguments
    try:
        used = await invocation.cluster.list(ObjectRef(NODE_METRICS), NodeUse, limit=PAGE)
    except (NotFound, Unavailable) as error:
        raise _no_metrics(error) from error
    nodes = await invocation.cluster.list(ObjectRef(NODES), Node, limit=PAGE)
    room = {node.metadata.name: node.status.allocatable for node in nodes.items}

    def usage(one: NodeUse) -> NodeUsage:
        cpu, memory = quantity(one.usage.cpu), quantity(one.usage.memory)
        have = room.get(one.metadata.name, {})
        shares = [
            round(100 * part / whole) if (whole := quantity(str(have.get(what, "")))) else 0
            for what, part in (("cpu", cpu), ("memory", memory))
        ]
        return NodeUsage(one.metadata.name, round(cpu * 1000), shares[0], round(memory / 2**20), shares[1])

    every = [usage(one) for one in used.items]
    every.sort(key=lambda one: one.memory_mib if arguments["sort_by"] == "memory" else one.cpu_millicores, reverse=True)
    shown = every[: arguments["limit"]]
    return {"nodes": msgspec.to_builtins(shown), "truncated": used.truncated or len(shown) < len(every)}


TOOLS = (
    Tool(
        name="top_pods",
        title="Hungriest pods",
        description="The pods that use most CPU or memory right now. Give `namespace`, or `all_namespaces: true`.",
        arguments=TopPodsArguments,
        result=TopPods,
        permission=Permission("list", "", "pods"),
        run=_top_pods,
        lists=True,
        read_only=True,
        idempotent=True,
    ),
    Tool(
        name="top_nodes",
        title="Busiest nodes",
        description="The nodes that use most CPU or memory right now, and which share of theirs that is.",
        arguments=TopNodesArguments,
        result=TopNodes,
        permission=NODES_PERMISSION,
        run=_top_nodes,
        namespaced=False,
        read_only=True,
        idempotent=True,
    ),
)
