"""The revisions of a workload: ReplicaSets of a Deployment, ControllerRevisions of the others."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.redaction import redact
from services.mcp_core.tools.base import Arguments, Invocation, Need, Permission, Structured, Tool, name_argument
from services.mcp_core.tools.workloads import (
    OFFERED,
    REVISION,
    Spec,
    Workload,
    WorkloadArguments,
    WorkloadMeta,
    permission_of,
    ref_of,
)

REPLICA_SETS = Resource("apps", "v1", "replicasets")
REVISIONS = Resource("apps", "v1", "controllerrevisions")

CAUSE = "kubernetes.io/change-cause"

MAX_REVISIONS = 500
"""Most revisions that are looked at for one workload."""


class Revision(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A revision in an answer."""

    revision: int
    created: str
    images: list[str]
    cause: str
    current: bool
    replicas: int | UnsetType = UNSET


class RolloutHistory(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of rollout_history, newest first."""

    kind: str
    name: str
    namespace: str
    revisions: list[Revision]


class OfRevision(msgspec.Struct, frozen=True):
    """A ControllerRevision (apps/v1); `data` is a patch with the pod template, base64 in some clusters."""

    metadata: WorkloadMeta
    revision: int = 0
    data: Any = None


class Patch(msgspec.Struct, frozen=True):
    """The patch in a ControllerRevision."""

    spec: Spec = Spec()


async def _rollout_history(invocation: Invocation) -> Structured:
    arguments = invocation.arguments
    kind: str = arguments["kind"]
    ref = ref_of(arguments)
    workload = await invocation.cluster.get(ref, Workload)
    selector = ",".join(f"{key}={value}" for key, value in sorted(workload.spec.selector.match_labels.items()))
    revisions: list[Revision] = []
    if kind == "deployment":
        page = await invocation.cluster.list(
            ObjectRef(REPLICA_SETS, ref.namespace), Workload, label_selector=selector, limit=MAX_REVISIONS
        )
        latest = workload.metadata.annotations.get(REVISION, "")
        revisions = [_of_replica_set(one, latest) for one in page.items if _owned(one.metadata, workload)]
    else:
        listed = await invocation.cluster.list(
            ObjectRef(REVISIONS, ref.namespace), OfRevision, label_selector=selector, limit=MAX_REVISIONS
        )
        owned = [one for one in listed.items if _owned(one.metadata, workload)]
        newest = max((one.revision for one in owned), default=0)
        revisions = [_of_revision(one, newest) for one in owned]
    revisions.sort(key=lambda one: one.revision, reverse=True)
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        RolloutHistory(kind, arguments["name"], ref.namespace, revisions)
    )


def _owned(metadata: WorkloadMeta, workload: Workload) -> bool:
    return any(owner.uid == workload.metadata.uid for owner in metadata.owner_references)


def _of_replica_set(one: Workload, latest: str) -> Revision:
    number = one.metadata.annotations.get(REVISION, "")
    return Revision(
        revision=int(number) if number.isdecimal() else 0,
        created=one.metadata.creation_timestamp,
        images=[container.image for container in one.spec.template.spec.containers],
        cause=redact(one.metadata.annotations.get(CAUSE, "")),
        current=bool(number) and number == latest,
        replicas=one.status.replicas,
    )


def _of_revision(one: OfRevision, newest: int) -> Revision:
    return Revision(
        revision=one.revision,
        created=one.metadata.creation_timestamp,
        images=_images(one.data),
        cause=redact(one.metadata.annotations.get(CAUSE, "")),
        current=one.revision == newest,
    )


def _images(data: Any) -> list[str]:
    try:
        if isinstance(data, str):
            patch = msgspec.json.decode(base64.b64decode(data), type=Patch)
        else:
            patch = msgspec.convert(data, Patch)
    except (ValueError, msgspec.MsgspecError):
        return []
    return [container.image for container in patch.spec.template.spec.containers]


def _history_needs(arguments: Arguments) -> tuple[Need, ...]:
    return (Need(Permission("list", "apps", "replicasets" if arguments["kind"] == "deployment" else REVISIONS.plural)),)


TOOLS = (
    Tool(
        name="rollout_history",
        title="Revisions of a workload",
        description="The revisions of a deployment, statefulset or daemonset with images and causes, newest first.",
        arguments=WorkloadArguments,
        result=RolloutHistory,
        permission=Permission("list", "apps", "deployments"),
        permission_for=permission_of,
        offered_for=OFFERED,
        needs=_history_needs,
        run=_rollout_history,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
