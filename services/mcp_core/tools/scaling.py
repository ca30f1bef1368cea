"""How many pods a workload has, and having it replace them: scale_deployment, restart_deployment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.mcp_core.changes import RESTARTED_AT, restarting, scaling
from services.mcp_core.ports import ObjectRef
from services.mcp_core.tools.base import (
    ActionAttributes,
    Arguments,
    ConfirmableArguments,
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
from services.mcp_core.tools.planning import Done, Versioned, called, done, look_at_patch, pinned
from services.mcp_core.tools.rollouts import Rollout, Wait, rolled_out, rollout_needs
from services.mcp_core.tools.workloads import RESOURCES, WorkloadKind, ref_of


class ScaleArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of scale_deployment."""

    name: ObjectName
    namespace: Namespace
    replicas: Annotated[int, Constraint(ge=0, le=1000, description="How many pods there shall be.")]
    kind: Literal["deployment", "statefulset"] = "deployment"
    wait: Wait = 0


class RestartArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of restart_deployment."""

    name: ObjectName
    namespace: Namespace
    kind: WorkloadKind = "deployment"
    wait: Wait = 0


class ScaleCount(msgspec.Struct, frozen=True):
    """A number of replicas."""

    replicas: int = 0


class Scale(msgspec.Struct, frozen=True):
    """The scale subresource (autoscaling/v1)."""

    spec: ScaleCount = ScaleCount()
    status: ScaleCount = ScaleCount()


class Scaled(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of scale_deployment: what is wanted now, and how many pods there were at that moment. `deployment` is
    the name of a StatefulSet, where `kind` says so."""

    deployment: str
    namespace: str
    replicas: int
    current_replicas: int
    kind: str = "deployment"
    rollout: Rollout | UnsetType = UNSET


def scale_of(ref: ObjectRef) -> ObjectRef:
    """The scale subresource of a workload."""
    return ObjectRef(ref.resource, ref.namespace, ref.name, "scale")


async def _prepare_scale(invocation: Invocation) -> Plan:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    replicas: int = arguments["replicas"]
    summary = f"Scales {called(arguments['kind'], ref)} to {replicas}."
    if replicas and not invocation.dry_run:
        # Nothing to confirm and nothing to judge: the one request is the change.
        return Plan(summary)
    return await look_at_patch(
        invocation,
        "Scale",
        scale_of(ref),
        {"spec": {"replicas": replicas}},
        summary if replicas else f"{summary} It stops.",
        decided=frozenset({scaling(ref.resource)}),
        replicas=replicas,
    )


async def _scale_deployment(invocation: Invocation) -> Structured:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    change = pinned({"spec": {"replicas": arguments["replicas"]}}, invocation.plan.resource_version)
    scale = await invocation.cluster.patch(scale_of(ref), change, Scale)
    scaled = Scaled(
        deployment=ref.name,
        namespace=ref.namespace,
        replicas=scale.spec.replicas,
        current_replicas=scale.status.replicas,
        kind=arguments["kind"],
    )
    made = f"{called(arguments['kind'], ref)} is scaled to {scale.spec.replicas}."
    return await rolled_out(invocation, msgspec.to_builtins(scaled), made)


def _scale_permission(arguments: Arguments) -> Permission:
    return scaling(RESOURCES[arguments["kind"]])


def _replicas(arguments: Arguments) -> ActionAttributes:
    return ActionAttributes(replicas=arguments["replicas"])


def _restart_patch() -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}}


async def _prepare_restart(invocation: Invocation) -> Plan:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    summary = f"Replaces the pods of {called(arguments['kind'], ref)}, as its update strategy says."
    if not invocation.dry_run:
        return Plan(summary)
    decided = frozenset({restarting(ref.resource)})
    return await look_at_patch(invocation, arguments["kind"], ref, _restart_patch(), summary, decided=decided)


async def _restart_deployment(invocation: Invocation) -> Structured:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    written = await invocation.cluster.patch(ref, _restart_patch(), Versioned)
    answer = done(arguments["kind"], ref, "Its pods are being replaced; rollout_status says how far.", written)
    return await rolled_out(invocation, answer, f"The pods of {called(arguments['kind'], ref)} are being replaced.")


def _restart_permission(arguments: Arguments) -> Permission:
    return restarting(RESOURCES[arguments["kind"]])


TOOLS = (
    Tool(
        name="scale_deployment",
        title="Scale a deployment",
        description="Sets how many pods a deployment or statefulset shall have. 0 stops it.",
        arguments=ScaleArguments,
        result=Scaled,
        permission=Permission("scale", "apps", "deployments", "scale"),
        permission_for=_scale_permission,
        offered_for=tuple(scaling(RESOURCES[kind]) for kind in ("deployment", "statefulset")),
        needs=rollout_needs,
        prepare=_prepare_scale,
        run=_scale_deployment,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
        attributes=_replicas,
    ),
    Tool(
        name="restart_deployment",
        title="Restart a workload",
        description="Replaces the pods of a deployment, statefulset or daemonset by new ones, as `kubectl rollout "
        "restart` does.",
        arguments=RestartArguments,
        result=Done,
        permission=Permission("restart", "apps", "deployments"),
        permission_for=_restart_permission,
        offered_for=tuple(restarting(resource) for resource in RESOURCES.values()),
        needs=rollout_needs,
        prepare=_prepare_restart,
        run=_restart_deployment,
        destructive=True,
        resource_name=name_argument,
    ),
)
