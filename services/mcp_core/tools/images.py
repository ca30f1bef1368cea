"""set_image: another image for one container of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta as Constraint

from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.tools.base import (
    Invocation,
    Namespace,
    ObjectName,
    Permission,
    Plan,
    Structured,
    Tool,
    WriteArguments,
    name_argument,
)
from services.mcp_core.tools.planning import Done, called, look_at_patch, only_container, patch_as_planned
from services.mcp_core.tools.rollouts import Wait, rolled_out, rollout_needs
from services.mcp_core.tools.workloads import PATCHING, WorkloadKind, patching, ref_of


class SetImageArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of set_image."""

    name: ObjectName
    namespace: Namespace
    image: Annotated[str, Constraint(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}$", description="E.g. nginx:1.29.")]
    container: Annotated[
        str, Constraint(pattern=f"{DNS1123_LABEL}|^$", description="Which, where there are several.")
    ] = ""
    kind: WorkloadKind = "deployment"
    wait: Wait = 0


def patch_of(found: Mapping[str, Any], container: str, image: str) -> dict[str, Any]:
    """The strategic merge patch that gives a container, or init container, another image.

    Raises:
        InvalidArgument: it is not clear which one, or there is none of that name. The patch would add one.
    """
    spec = found["spec"]["template"]["spec"]
    names = [one["name"] for one in spec.get("containers") or ()]
    first = [one["name"] for one in spec.get("initContainers") or ()]
    field = "initContainers" if container and container in first else "containers"
    chosen = container if field == "initContainers" else only_container(names, container)
    return {"spec": {"template": {"spec": {field: [{"name": chosen, "image": image}]}}}}


async def _prepare(invocation: Invocation) -> Plan:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    return await look_at_patch(
        invocation,
        arguments["kind"],
        ref,
        lambda found: patch_of(found, arguments["container"], arguments["image"]),
        f"Sets an image of {called(arguments['kind'], ref)} to {arguments['image']}.",
        form="strategic",
        decided=frozenset({patching(arguments)}),
    )


async def _set_image(invocation: Invocation) -> Structured:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    said = "The image is set; rollout_status says how far its pods are."
    answer = await patch_as_planned(invocation, arguments["kind"], ref, said)
    made = f"An image of {called(arguments['kind'], ref)} is set to {arguments['image']}."
    return await rolled_out(invocation, answer, made)


TOOLS = (
    Tool(
        name="set_image",
        title="Set an image",
        description="Gives a container of a deployment, statefulset or daemonset another image and so replaces its "
        "pods. rollout_undo goes back.",
        arguments=SetImageArguments,
        result=Done,
        permission=Permission("patch", "apps", "deployments"),
        permission_for=patching,
        offered_for=PATCHING,
        needs=rollout_needs,
        prepare=_prepare,
        run=_set_image,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
