"""drain_node: closes a node and evicts its pods, by the rules of `kubectl drain`.

Policy is asked about each pod by its name, like evict_pod; one that came later stays. Pods go one after another, each
asked of its PodDisruptionBudget; what a budget holds back is tried again until the time is up. Policy is asked again
before each round, so that a revocation ends it; however it ends, the node stays closed, and answer and record say which
pods went and which are still there. Calling it again goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta as Constraint

from services.common.errors import (
    Conflict,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from services.mcp_core.changes import CORDON, DRAIN, EVICT
from services.mcp_core.errors import ClusterDenied, OutcomeUnknown
from services.mcp_core.ports import ObjectRef
from services.mcp_core.tools.base import (
    Arguments,
    Change,
    ConfirmableArguments,
    Invocation,
    Need,
    ObjectName,
    Permission,
    Plan,
    Structured,
    Tool,
    name_argument,
)
from services.mcp_core.tools.node_changes import NODES, cordon
from services.mcp_core.tools.planning import Versioned, called
from services.mcp_core.tools.pods import PODS

MIRROR = "kubernetes.io/config.mirror"
MAX_PODS = 1000

PAUSE = 1.0
"""Seconds between two rounds."""

_REFUSED = (PermissionDenied, Unauthenticated, InvalidArgument, Conflict, ResourceExhausted)
"""Answers after which a pod is surely left where it is; of any other error that is not known."""

RESERVE = 0.5
"""Seconds before the call's deadline at which it gives up, to say how it left the node."""


class DrainArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of drain_node."""

    name: ObjectName
    delete_emptydir_data: Annotated[bool, Constraint(description="Pods may lose what they keep in emptyDir.")] = False
    force: Annotated[bool, Constraint(description="Pods without a controller go too, for good.")] = False


class Owner(msgspec.Struct, frozen=True):
    """A reference to an owner."""

    kind: str
    controller: bool = False


class DrainedMeta(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod's metadata."""

    name: str
    namespace: str
    uid: str = ""
    annotations: dict[str, str] = {}
    owner_references: list[Owner] = []
    deletion_timestamp: str = ""


class DrainedVolume(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a volume."""

    empty_dir: Any = None


class DrainedSpec(msgspec.Struct, frozen=True):
    """What is read of a pod's specification."""

    volumes: list[DrainedVolume] = []


class DrainedStatus(msgspec.Struct, frozen=True):
    """What is read of a pod's status."""

    phase: str = ""


class DrainedPod(msgspec.Struct, frozen=True):
    """What draining reads of a pod."""

    metadata: DrainedMeta
    spec: DrainedSpec = DrainedSpec()
    status: DrainedStatus = DrainedStatus()

    @property
    def place(self) -> str:
        """namespace/name"""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def controller(self) -> str:
        """The kind of its controller; "" without one."""
        return next((owner.kind for owner in self.metadata.owner_references if owner.controller), "")

    @property
    def finished(self) -> bool:
        """Whether it runs no more."""
        return self.status.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class DrainPlan(Plan):
    """The plan with the pods, by uid, about whose eviction authz was asked."""

    decided: frozenset[str] = frozenset()


class Drained(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of drain_node. `complete`: nothing is left but what stays. gone: evicted, and no longer there. leaving:
    evicted, still ending. blocked: what a PodDisruptionBudget holds back, and what was not there when the call was
    decided. staying: of DaemonSets, and the node's own."""

    node: str
    complete: bool
    message: str
    gone: list[str]
    leaving: list[str]
    blocked: list[str]
    staying: list[str]


def split(pods: Sequence[DrainedPod]) -> tuple[list[DrainedPod], list[DrainedPod]]:
    """The pods that are to go, and those that stay: a DaemonSet's would come back, a mirror is not the cluster's."""
    stays = [
        pod
        for pod in pods
        if MIRROR in pod.metadata.annotations or (pod.controller == "DaemonSet" and not pod.finished)
    ]
    return [pod for pod in pods if pod not in stays], stays


def is_lone(pod: DrainedPod) -> bool:
    """Whether nothing would bring it back."""
    return not pod.controller and not pod.finished


def holds_data(pod: DrainedPod) -> bool:
    """Whether it would lose what it keeps in an emptyDir volume."""
    return not pod.finished and any(volume.empty_dir is not None for volume in pod.spec.volumes)


def refuse_loss(pods: Sequence[DrainedPod], arguments: Arguments) -> None:
    """Raises FailedPrecondition for what would be lost without having been asked for."""
    lone, holding = ([pod.place for pod in pods if loses(pod)] for loses in (is_lone, holds_data))
    if lone and not arguments["force"]:
        raise FailedPrecondition(
            f"These pods have no controller and would be gone for good: {_some(lone)}. `force: true` evicts them."
        )
    if holding and not arguments["delete_emptydir_data"]:
        raise FailedPrecondition(
            f"These pods keep data in emptyDir volumes and would lose it: {_some(holding)}. "
            "`delete_emptydir_data: true` accepts that."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


async def _pods(invocation: Invocation) -> list[DrainedPod]:
    page = await invocation.cluster.list(
        ObjectRef(PODS), DrainedPod, field_selector=f"spec.nodeName={invocation.arguments['name']}", limit=MAX_PODS
    )
    return page.items


async def _prepare(invocation: Invocation) -> Plan:
    ref = ObjectRef(NODES, "", invocation.arguments["name"])
    node = await invocation.cluster.get(ref, Versioned)
    going, staying = split(await _pods(invocation))
    refuse_loss(going, invocation.arguments)
    namespaces = sorted({pod.metadata.namespace for pod in going})
    if invocation.dry_run:
        await invocation.cluster.patch(ref, cordon(on=True), Versioned, dry_run=True)
    return DrainPlan(
        summary=f"Drains {called('Node', ref)}: evicts {len(going)} pods"
        + (f" of {_some(namespaces)}." if namespaces else "."),
        resource_version=node.metadata.resource_version,
        confirm=True,
        needs=tuple(Need(EVICT, namespace=pod.metadata.namespace, name=pod.metadata.name) for pod in going),
        changes=tuple(Change(f"pod {pod.place}", "there", "evicted") for pod in going[:100]),
        notes=(f"Stay: {_some([pod.place for pod in staying])}.",) if staying else (),
        decided=frozenset(pod.metadata.uid for pod in going),
    )


class _Draining:
    """One drain while it goes on. asked: the pods that are evicted, by uid. open: those that were asked for and whose
    answer has not come; it may never come."""

    def __init__(self, invocation: Invocation, decided: frozenset[str]) -> None:
        self._invocation = invocation
        self._decided = decided
        self._node: str = invocation.arguments["name"]
        self._asked: dict[str, DrainedPod] = {}
        self._open: dict[str, DrainedPod] = {}
        self._going: Sequence[DrainedPod] = ()
        self._staying: Sequence[DrainedPod] = ()
        self._blocked: list[str] = []

    async def run(self) -> Structured:
        """Closes the node, evicts what may go, and says how it left it, whatever ended it.

        Raises:
            OutcomeUnknown: of an eviction; nobody knows whether that pod goes.
        """
        await self._invocation.cluster.patch(ObjectRef(NODES, "", self._node), cordon(on=True), Versioned)
        self._leaves()
        try:
            ended = await self._rounds()
        except ClusterDenied as error:
            ended = f"it ended ({error.public_message})"
        except PermissionDenied:
            ended = "policy no longer allows it"
        except DomainError as error:
            ended = f"it ended ({error.public_message})"
        answer = self._answer(ended)
        self._leaves(answer.message, made=answer.complete)
        if self._open:
            # What it left goes with it, into the record and to the caller.
            raise OutcomeUnknown(
                f"The answer about an eviction of node {self._node} is missing: look before calling again."
            )
        return msgspec.to_builtins(answer)  # type: ignore[no-any-return]

    async def _rounds(self) -> str:
        """ "" once nothing is left, or why there is."""
        invocation, now = self._invocation, asyncio.get_running_loop().time
        end = now() + (invocation.deadline.remaining() - RESERVE if invocation.deadline else 30)
        while True:
            self._going, self._staying = split(await _pods(invocation))
            await self._round(end)
            if not self._going:
                return ""
            if now() + PAUSE > end:
                return "the time is up"
            await asyncio.sleep(PAUSE)
            await invocation.still_allowed()

    async def _round(self, end: float) -> None:
        """Asks for the eviction of each pod that was not asked for yet, and notes those that are held back."""
        invocation, asked = self._invocation, self._asked
        self._blocked = []
        total = len(asked) + sum(pod.metadata.uid not in asked for pod in self._going)
        for pod in self._going:
            if pod.metadata.uid in asked or pod.metadata.deletion_timestamp:
                continue
            if asyncio.get_running_loop().time() > end:
                break
            if pod.metadata.uid not in self._decided:
                self._blocked.append(pod.place)
                continue
            if await self._evict(pod):
                await invocation.progress(len(asked), total, f"{pod.place} is evicted.")

    async def _evict(self, pod: DrainedPod) -> bool:
        """Whether it goes, or is gone. On record as asked for before it is asked: its answer may be lost."""
        uid = pod.metadata.uid
        self._open[uid] = pod
        self._leaves()
        try:
            await self._invocation.cluster.evict(ObjectRef(PODS, pod.metadata.namespace, pod.metadata.name), uid=uid)
        except FailedPrecondition:
            self._blocked.append(pod.place)
            goes = False
        except NotFound:
            goes = True
        except _REFUSED:
            del self._open[uid]
            raise
        else:
            goes = True
        del self._open[uid]
        if goes:
            self._asked[uid] = pod
        self._leaves()
        return goes

    def _leaves(self, message: str = "", *, made: bool = False) -> None:
        """Tells the record. How many come first, since a record is cut where it is long."""
        said = message or f"Node {self._node} is closed to new pods; it was being drained."
        groups = {
            "Outcome unknown": [pod.place for pod in self._open.values()],
            "Evicted": [pod.place for pod in self._asked.values()],
            "Held back": self._blocked,
        }
        told = {what: places for what, places in groups.items() if places or what == "Evicted"}
        counts = ", ".join(f"{len(places)} {what.lower()}" for what, places in told.items())
        names = " ".join(f"{what}: {_some(places) or 'none'}." for what, places in told.items())
        self._invocation.leaves(f"Pods: {counts}. {said} {names}", made=made)

    def _answer(self, ended: str) -> Drained:
        left = {pod.metadata.uid for pod in self._going}
        message = "The node is closed to new pods and drained."
        if ended:
            pods = " with pods left" if left else ""
            message = f"The node is closed to new pods, but {ended}{pods}: call again to go on."
        return Drained(
            node=self._node,
            complete=not ended,
            message=message,
            gone=[pod.place for uid, pod in self._asked.items() if uid not in left],
            leaving=[
                pod.place for pod in self._going if pod.metadata.uid in self._asked or pod.metadata.deletion_timestamp
            ],
            blocked=self._blocked,
            staying=[pod.place for pod in self._staying],
        )


async def _drain_node(invocation: Invocation) -> Structured:
    plan = invocation.plan
    assert isinstance(plan, DrainPlan)  # noqa: S101 - `prepare` of the same tool made it
    return await _Draining(invocation, plan.decided).run()


def _needs(arguments: Arguments) -> tuple[Need, ...]:
    return (
        Need(DRAIN, in_cluster=True),
        Need(Permission("list", "", "pods"), in_cluster=True),
    )


TOOLS = (
    Tool(
        name="drain_node",
        title="Drain a node",
        description="Closes a node to new pods and evicts those there, but for DaemonSets'. Call again to go on.",
        arguments=DrainArguments,
        result=Drained,
        permission=CORDON,
        needs=_needs,
        offered_for=(DRAIN,),
        prepare=_prepare,
        run=_drain_node,
        namespaced=False,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
