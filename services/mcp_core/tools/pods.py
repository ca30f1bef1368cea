"""Pods: list and get. Their logs are in logs.py, what changes them in pod_changes.py."""

from __future__ import annotations

import msgspec

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
)
