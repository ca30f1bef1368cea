"""Pods as answers show them: the words and numbers of `kubectl get pods`, from the few fields that they need."""

from __future__ import annotations

import msgspec

from services.mcp_core.redaction import redact
from services.mcp_core.tools.listing import Meta


class Reason(msgspec.Struct, frozen=True, rename="camel"):
    """A waiting or terminated state of a container."""

    reason: str = ""
    exit_code: int = 0
    signal: int = 0


class Running(msgspec.Struct, frozen=True):
    """A container that runs; nothing of it is read."""


class State(msgspec.Struct, frozen=True):
    """A container's state: one of the three."""

    waiting: Reason | None = None
    terminated: Reason | None = None
    running: Running | None = None


class ContainerStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What the kubelet reports of a container."""

    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: State = State()


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod's status."""

    phase: str = ""
    reason: str = ""
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a container's specification."""

    name: str
    restart_policy: str = ""


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod's specification."""

    containers: list[Container] = []
    init_containers: list[Container] = []
    node_name: str = ""


class Pod(msgspec.Struct, frozen=True):
    """What is read of a pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class PodSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A pod in an answer, unless `fields` says less. `status` and `ready` are those of `kubectl get pods`."""

    name: str = ""
    namespace: str = ""
    status: str = ""
    ready: str = ""
    restarts: int = 0
    created: str = ""
    node: str = ""
    containers: list[str] = []


def status_of(pod: Pod) -> str:
    """The STATUS column of `kubectl get pods`: the most telling word about a pod.

    After printPod in kubernetes/pkg/printers/internalversion/printers.go.
    """
    reason = pod.status.reason or pod.status.phase or "Unknown"
    sidecars = {container.name for container in pod.spec.init_containers if container.restart_policy == "Always"}
    initializing = False
    for index, container in enumerate(pod.status.init_container_statuses or ()):
        ended, waiting = container.state.terminated, container.state.waiting
        if (ended is not None and ended.exit_code == 0) or (container.name in sidecars and container.ready):
            continue
        if ended is not None:
            reason = f"Init:{_ended(ended)}"
        elif waiting is not None and waiting.reason not in {"", "PodInitializing"}:
            reason = f"Init:{waiting.reason}"
        else:
            reason = f"Init:{index}/{len(pod.spec.init_containers)}"
        initializing = True
        break
    if not initializing:
        running = False
        for container in reversed(pod.status.container_statuses or ()):
            ended, waiting = container.state.terminated, container.state.waiting
            if waiting is not None and waiting.reason:
                reason = waiting.reason
            elif ended is not None:
                reason = _ended(ended)
            elif container.ready and container.state.running is not None:
                running = True
        if reason == "Completed" and running:
            reason = "Running"
    if pod.metadata.deletion_timestamp:
        return "Unknown" if pod.status.reason == "NodeLost" else "Terminating"
    return reason


def _ended(state: Reason) -> str:
    if state.reason:
        return state.reason
    return f"Signal:{state.signal}" if state.signal else f"ExitCode:{state.exit_code}"


def summarize(pod: Pod) -> PodSummary:
    """A pod as an answer shows it."""
    statuses = pod.status.container_statuses or ()
    status = status_of(pod)
    return PodSummary(
        name=pod.metadata.name,
        namespace=pod.metadata.namespace,
        # A word, as a rule; whatever else a runtime may write there is free text.
        status=status if status.isalnum() else redact(status),
        ready=f"{sum(status.ready for status in statuses)}/{len(pod.spec.containers)}",
        restarts=sum(status.restart_count for status in statuses),
        created=pod.metadata.creation_timestamp,
        node=pod.spec.node_name,
        containers=[container.name for container in pod.spec.containers],
    )
