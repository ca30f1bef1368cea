"""Pods: restart, delete, evict. Each for the very pod that was looked at, never another of its name."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.common.errors import FailedPrecondition
from services.mcp_core.changes import EVICT
from services.mcp_core.ports import ObjectRef
from services.mcp_core.tools.base import (
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
from services.mcp_core.tools.pods import PODS


class PodWriteArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments that name a pod to restart."""

    name: ObjectName
    namespace: Namespace


class PodRemovalArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments that name a pod to delete or evict."""

    name: ObjectName
    namespace: Namespace


class Owner(msgspec.Struct, frozen=True):
    """A reference to an owner."""

    kind: str
    name: str
    controller: bool = False


class OwnedMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Who owns a pod, and which very pod it is."""

    uid: str
    resource_version: str = ""
    owner_references: list[Owner] = []


class OwnedPod(msgspec.Struct, frozen=True):
    """What a change reads of a pod."""

    metadata: OwnedMeta


@dataclass(frozen=True, slots=True)
class PodPlan(Plan):
    """The plan for one very pod. controller: what will replace it, if anything."""

    uid: str = ""
    controller: Owner | None = None


class Restarted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of restart_pod."""

    pod: str
    namespace: str
    controller: str
    message: str


class Deleted(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of delete_pod and evict_pod."""

    pod: str
    namespace: str
    message: str


async def _look(invocation: Invocation, does: str, *, confirm: bool) -> PodPlan:
    ref = _ref(invocation)
    metadata = (await invocation.cluster.get(ref, OwnedPod)).metadata
    owner = next((owner for owner in metadata.owner_references if owner.controller), None)
    after = f"{owner.kind} {owner.name} replaces it." if owner else "Nothing brings it back."
    return PodPlan(
        summary=f"{does} pod {ref.namespace}/{ref.name}. {after}",
        resource_version=metadata.resource_version,
        confirm=confirm,
        uid=metadata.uid,
        controller=owner,
    )


def _ref(invocation: Invocation) -> ObjectRef:
    (namespace,) = invocation.namespaces
    return ObjectRef(PODS, namespace, invocation.arguments["name"])


def _seen(invocation: Invocation) -> PodPlan:
    assert isinstance(invocation.plan, PodPlan)  # noqa: S101 - `prepare` of the same tool made it
    return invocation.plan


async def _prepare_restart(invocation: Invocation) -> Plan:
    plan = await _look(invocation, "Restarts", confirm=False)
    if plan.controller is None:
        raise FailedPrecondition(
            f"Pod {_ref(invocation).namespace}/{_ref(invocation).name} has no controller, so nothing would bring it "
            "back. delete_pod removes it for good."
        )
    if invocation.dry_run:
        await invocation.cluster.delete(_ref(invocation), uid=plan.uid, dry_run=True)
    return plan


async def _restart_pod(invocation: Invocation) -> Structured:
    ref, plan = _ref(invocation), _seen(invocation)
    owner = plan.controller
    await invocation.cluster.delete(ref, uid=plan.uid)
    keeps_name = owner is not None and owner.kind == "StatefulSet"
    named = f"{owner.kind} {owner.name}" if owner else "Its controller"
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Restarted(
            pod=ref.name,
            namespace=ref.namespace,
            controller=f"{owner.kind}/{owner.name}" if owner else "",
            message=f"{named} is replacing the pod; it comes back under "
            + ("the same name." if keeps_name else "a new name: list_pods shows it."),
        )
    )


async def _prepare_delete(invocation: Invocation) -> Plan:
    plan = await _look(invocation, "Deletes", confirm=True)
    if invocation.dry_run:
        await invocation.cluster.delete(_ref(invocation), uid=plan.uid, dry_run=True)
    return plan


async def _delete_pod(invocation: Invocation) -> Structured:
    ref, plan = _ref(invocation), _seen(invocation)
    await invocation.cluster.delete(ref, uid=plan.uid, resource_version=plan.resource_version)
    return _gone(ref, "Being deleted; a controller, if it has one, replaces it.")


async def _prepare_evict(invocation: Invocation) -> Plan:
    plan = await _look(invocation, "Evicts", confirm=True)
    if invocation.dry_run:
        await invocation.cluster.evict(_ref(invocation), uid=plan.uid, dry_run=True)
    return plan


async def _evict_pod(invocation: Invocation) -> Structured:
    ref, plan = _ref(invocation), _seen(invocation)
    await invocation.cluster.evict(ref, uid=plan.uid, resource_version=plan.resource_version)
    return _gone(ref, "Evicted; a controller, if it has one, replaces it.")


def _gone(ref: ObjectRef, message: str) -> Structured:
    return msgspec.to_builtins(Deleted(pod=ref.name, namespace=ref.namespace, message=message))  # type: ignore[no-any-return]


TOOLS = (
    Tool(
        name="restart_pod",
        title="Restart a pod",
        description="Deletes a pod that has a controller, which replaces it, usually under a new name.",
        arguments=PodWriteArguments,
        result=Restarted,
        permission=Permission("restart", "", "pods"),
        prepare=_prepare_restart,
        run=_restart_pod,
        destructive=True,
        resource_name=name_argument,
    ),
    Tool(
        name="delete_pod",
        title="Delete a pod",
        description="Deletes a pod. Without a controller it is gone for good.",
        arguments=PodRemovalArguments,
        result=Deleted,
        permission=Permission("delete", "", "pods"),
        prepare=_prepare_delete,
        run=_delete_pod,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
    ),
    Tool(
        name="evict_pod",
        title="Evict a pod",
        description="Deletes a pod unless its PodDisruptionBudget forbids it now.",
        arguments=PodRemovalArguments,
        result=Deleted,
        permission=EVICT,
        prepare=_prepare_evict,
        run=_evict_pod,
        destructive=True,
        resource_name=name_argument,
    ),
)
