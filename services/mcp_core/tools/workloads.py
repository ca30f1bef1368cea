"""Deployments, StatefulSets and DaemonSets in full: state, rollout and its history, in the words of kubectl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta as Constraint

from services.mcp_core.changes import permission_to
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.redaction import redact
from services.mcp_core.redaction_objects import redact_command, redact_named
from services.mcp_core.tools.base import (
    Arguments,
    Invocation,
    Namespace,
    ObjectArguments,
    ObjectName,
    Permission,
    Structured,
    Tool,
    fenced_json,
    name_argument,
)
from services.mcp_core.tools.pod_detail import (
    Condition,
    ConditionSummary,
    DetailedContainer,
    DetailedMeta,
    conditions,
)

WorkloadKind = Literal["deployment", "statefulset", "daemonset"]

RESOURCES: Mapping[str, Resource] = {
    "deployment": Resource("apps", "v1", "deployments"),
    "statefulset": Resource("apps", "v1", "statefulsets"),
    "daemonset": Resource("apps", "v1", "daemonsets"),
}
REVISION = "deployment.kubernetes.io/revision"


class WorkloadArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments that name a workload."""

    name: ObjectName
    namespace: Namespace
    kind: Annotated[WorkloadKind, Constraint(description="What it is.")] = "deployment"


class Labels(msgspec.Struct, frozen=True, rename="camel"):
    """A label selector."""

    match_labels: dict[str, str] = {}


class Strategy(msgspec.Struct, frozen=True):
    """How a workload is rolled out."""

    type: str = ""


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod template."""

    containers: list[DetailedContainer] = []
    service_account_name: str = ""


class Template(msgspec.Struct, frozen=True):
    """The pod template."""

    spec: PodSpec = PodSpec()


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a workload's specification."""

    replicas: int = 1
    paused: bool = False
    selector: Labels = Labels()
    strategy: Strategy = Strategy()
    update_strategy: Strategy = Strategy()
    template: Template = Template()


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a workload's status; the names differ between the kinds."""

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    number_ready: int = 0
    conditions: list[Condition] | None = None


class WorkloadMeta(DetailedMeta, frozen=True, rename="camel"):
    """What is read of a workload's metadata."""

    uid: str = ""
    generation: int = 0
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Workload(msgspec.Struct, frozen=True):
    """What is read of a workload."""

    metadata: WorkloadMeta
    spec: Spec = Spec()
    status: Status = Status()


class Image(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A container of a pod template in an answer."""

    name: str
    image: str
    command: list[str]


class DeploymentDetail(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of get_deployment. The first fields are those of list_deployments; `rollout` is as of rollout_status."""

    name: str
    namespace: str
    replicas: int
    ready: int
    updated: int
    available: int
    images: list[str]
    created: str
    rollout: str
    message: str
    strategy: str
    revision: str
    selector: dict[str, str]
    labels: dict[str, str]
    containers: list[Image]
    conditions: list[ConditionSummary]


class RolloutStatus(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of rollout_status. `status`: complete, progressing, failed or paused; `message` says what is missing."""

    kind: str
    name: str
    namespace: str
    status: str
    message: str
    replicas: int
    updated: int
    ready: int
    available: int


def rollout(kind: str, workload: Workload) -> RolloutStatus:
    """How far a rollout is, by the rules of `kubectl rollout status` (kubectl/pkg/polymorphichelpers)."""
    spec, status, name = workload.spec, workload.status, workload.metadata.name
    if kind == "daemonset":
        wanted, updated, ready, available = (
            status.desired_number_scheduled,
            status.updated_number_scheduled,
            status.number_ready,
            status.number_available,
        )
    else:
        wanted, updated, ready, available = (
            spec.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
        )
    late = next((one for one in status.conditions or () if one.reason == "ProgressDeadlineExceeded"), None)
    word = "progressing"
    if workload.metadata.generation > status.observed_generation:
        message = "The change has not been seen by its controller yet."
    elif spec.paused:
        word, message = "paused", "The rollout is paused."
    elif late is not None:
        word, message = "failed", f"It exceeded its progress deadline: {redact(late.message)} diagnose says why."
    elif updated < wanted:
        message = f"{updated} of {wanted} pods are updated."
    elif kind != "daemonset" and status.replicas > updated:
        message = f"{status.replicas - updated} old pods are still to go."
    elif available < wanted:
        message = f"{available} of {wanted} updated pods are available."
    else:
        word, message = "complete", f"All {wanted} pods are updated and available."
    return RolloutStatus(kind, name, workload.metadata.namespace, word, message, wanted, updated, ready, available)


def ref_of(arguments: Arguments) -> ObjectRef:
    """The workload that the arguments name."""
    return ObjectRef(RESOURCES[arguments["kind"]], arguments["namespace"], arguments["name"])


def permission_of(arguments: Arguments) -> Permission:
    """Reading that kind of workload."""
    return Permission("list", "apps", RESOURCES[arguments["kind"]].plural)


def patching(arguments: Arguments) -> Permission:
    """Giving that workload another pod template."""
    return permission_to("patch", RESOURCES[arguments["kind"]])


PATCHING = tuple(permission_to("patch", resource) for resource in RESOURCES.values())


async def _get_deployment(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    ref = ObjectRef(RESOURCES["deployment"], namespace, invocation.arguments["name"])
    found = await invocation.cluster.get(ref, Workload)
    metadata, spec, state = found.metadata, found.spec, rollout("deployment", found)
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        DeploymentDetail(
            name=metadata.name,
            namespace=metadata.namespace,
            replicas=spec.replicas,
            ready=state.ready,
            updated=state.updated,
            available=state.available,
            images=[container.image for container in spec.template.spec.containers],
            created=metadata.creation_timestamp,
            rollout=state.status,
            message=state.message,
            strategy=spec.strategy.type,
            revision=metadata.annotations.get(REVISION, ""),
            selector={key: redact_named(key, value) for key, value in spec.selector.match_labels.items()},
            labels={key: redact_named(key, value) for key, value in metadata.labels.items()},
            containers=[
                Image(one.name, one.image, redact_command([*one.command, *one.args]))
                for one in spec.template.spec.containers
            ],
            conditions=conditions(found.status.conditions),
        )
    )


async def _rollout_status(invocation: Invocation) -> Structured:
    found = await invocation.cluster.get(ref_of(invocation.arguments), Workload)
    return msgspec.to_builtins(rollout(invocation.arguments["kind"], found))  # type: ignore[no-any-return]


OFFERED = tuple(Permission("list", "apps", resource.plural) for resource in RESOURCES.values())

TOOLS = (
    Tool(
        name="get_deployment",
        title="Look at a deployment",
        description="One deployment: replicas, rollout, strategy, containers, conditions. Secrets are removed.",
        arguments=ObjectArguments,
        result=DeploymentDetail,
        permission=Permission("list", "apps", "deployments"),
        run=_get_deployment,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
        text=fenced_json,
    ),
    Tool(
        name="rollout_status",
        title="How far a rollout is",
        description="Whether the last change of a deployment, statefulset or daemonset is rolled out, and what is "
        "missing. wait_for waits for it.",
        arguments=WorkloadArguments,
        result=RolloutStatus,
        permission=Permission("list", "apps", "deployments"),
        permission_for=permission_of,
        offered_for=OFFERED,
        run=_rollout_status,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
