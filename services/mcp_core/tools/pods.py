"""Pods: list, get, restart, delete. Their logs are in logs.py."""

from __future__ import annotations

import msgspec

from services.common.errors import FailedPrecondition
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.base import (
    Invocation,
    ListArguments,
    ObjectArguments,
    Permission,
    Structured,
    Tool,
    fenced_json,
    name_argument,
)
from services.mcp_core.tools.listing import Listing, list_objects, listed
from services.mcp_core.tools.pod_detail import DetailedPod, PodDetail, detail
from services.mcp_core.tools.pod_view import Pod, PodSummary, summarize

PODS = Resource("", "v1", "pods")


class PodList(Listing, frozen=True, kw_only=True):
    """Answer of list_pods."""

    pods: list[PodSummary]


async def _list_pods(invocation: Invocation) -> Structured:
    found = await list_objects(invocation, PODS, Pod, summarize)
    return listed("pods", found, invocation.arguments, PodSummary)


async def _get_pod(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    ref = ObjectRef(PODS, namespace, invocation.arguments["name"])
    return msgspec.to_builtins(detail(await invocation.cluster.get(ref, DetailedPod)))  # type: ignore[no-any-return]


class Owner(msgspec.Struct, frozen=True):
    """A reference to an owner."""

    kind: str
    name: str
    controller: bool = False


class OwnedMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Who owns a pod, and which very pod it is."""

    uid: str
    owner_references: list[Owner] = []


class OwnedPod(msgspec.Struct, frozen=True):
    """What a restart reads of a pod."""

    metadata: OwnedMeta


class Restarted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of restart_pod."""

    pod: str
    namespace: str
    controller: str
    message: str


async def _restart_pod(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    name: str = invocation.arguments["name"]
    ref = ObjectRef(PODS, namespace, name)
    metadata = (await invocation.cluster.get(ref, OwnedPod)).metadata
    owner = next((owner for owner in metadata.owner_references if owner.controller), None)
    if owner is None:
        raise FailedPrecondition(
            f"Pod {namespace}/{name} has no controller, so nothing would bring it back. delete_pod removes it for good."
        )
    await invocation.cluster.delete(ref, uid=metadata.uid)
    keeps_name = owner.kind == "StatefulSet"
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Restarted(
            pod=name,
            namespace=namespace,
            controller=f"{owner.kind}/{owner.name}",
            message=f"{owner.kind} {owner.name} is replacing the pod; it comes back under "
            + ("the same name." if keeps_name else "a new name: list_pods shows it."),
        )
    )


class Deleted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of delete_pod."""

    pod: str
    namespace: str
    message: str


async def _delete_pod(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    name: str = invocation.arguments["name"]
    await invocation.cluster.delete(ObjectRef(PODS, namespace, name))
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Deleted(pod=name, namespace=namespace, message="Being deleted; a controller, if it has one, replaces it.")
    )


TOOLS = (
    Tool(
        name="list_pods",
        title="List pods",
        description="Pods of a namespace with status, readiness, restarts and containers. "
        "Give `namespace`, or `all_namespaces: true`. Long lists come in parts.",
        arguments=ListArguments,
        result=PodList,
        permission=Permission("list", "", "pods"),
        run=_list_pods,
        lists=True,
        read_only=True,
        idempotent=True,
    ),
    Tool(
        name="get_pod",
        title="Look at a pod",
        description="One pod: containers with states, last exits, resources and environment, conditions, owner. "
        "Secrets are removed.",
        arguments=ObjectArguments,
        result=PodDetail,
        permission=Permission("list", "", "pods"),
        run=_get_pod,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
        text=fenced_json,
    ),
    Tool(
        name="restart_pod",
        title="Restart a pod",
        description="Deletes a pod that has a controller, which replaces it, usually under a new name.",
        arguments=ObjectArguments,
        result=Restarted,
        permission=Permission("restart", "", "pods"),
        run=_restart_pod,
        destructive=True,
        resource_name=name_argument,
    ),
    Tool(
        name="delete_pod",
        title="Delete a pod",
        description="Deletes a pod. Without a controller it is gone for good.",
        arguments=ObjectArguments,
        result=Deleted,
        permission=Permission("delete", "", "pods"),
        run=_delete_pod,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
