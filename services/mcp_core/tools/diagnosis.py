"""diagnose: one call gathers what an agent would ask for one by one, and says what is wrong and what to try.

It reads the pod (of a workload, its worst one), its events, the log of the container that failed, and its node: each
with a decision of its own. What the caller may not see is left out and named; nothing is guessed in its place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import DomainError
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.base import (
    Arguments,
    Invocation,
    Namespace,
    Need,
    ObjectName,
    Permission,
    Structured,
    Tool,
    fenced_json,
    name_argument,
)
from services.mcp_core.tools.events import EVENTS_PERMISSION, EventSummary, newest
from services.mcp_core.tools.findings import Finding, of_events, of_log, of_pod
from services.mcp_core.tools.logs import LOGS, clean_lines
from services.mcp_core.tools.nodes import NODES, NODES_PERMISSION, Node, NodeSummary, summarize
from services.mcp_core.tools.pod_detail import DetailedPod, narrow
from services.mcp_core.tools.pod_view import PodSummary
from services.mcp_core.tools.pod_view import summarize as summarize_pod
from services.mcp_core.tools.pods import PODS
from services.mcp_core.tools.workloads import RESOURCES, Workload, rollout

JOBS = Resource("batch", "v1", "jobs")
PODS_PERMISSION = Permission("list", "", "pods")

MAX_PODS = 100
"""Most pods of a workload that are looked at."""

MAX_EVENTS = 15
LOG_LINES = 40
LOG_BYTES = 64 * 1024


class DiagnoseArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of diagnose."""

    name: ObjectName
    namespace: Namespace
    kind: Annotated[
        Literal["pod", "deployment", "statefulset", "daemonset", "job"], Constraint(description="What it is.")
    ] = "pod"


class Diagnosis(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Answer of diagnose. `log`: the end of the log that tells most, of the run before where a container crashed.

    not_shown: what was left out, and why.
    """

    subject: str
    healthy: bool
    summary: str
    findings: list[Finding]
    rollout: str | UnsetType = UNSET
    pods: dict[str, int] | UnsetType = UNSET
    pod: PodSummary | UnsetType = UNSET
    node: NodeSummary | UnsetType = UNSET
    events: list[EventSummary]
    log: list[str]
    log_of: str
    not_shown: list[str]


class JobStatus(msgspec.Struct, frozen=True):
    """What is read of a job's status."""

    active: int = 0
    succeeded: int = 0
    failed: int = 0
    conditions: list[dict[str, Any]] | None = None


class Selector(msgspec.Struct, frozen=True, rename="camel"):
    """What a workload's pods are marked with."""

    match_labels: dict[str, str] = {}


class JobSpec(msgspec.Struct, frozen=True):
    """What is read of a job's specification."""

    selector: Selector = Selector()


class Job(msgspec.Struct, frozen=True):
    """What is read of a job."""

    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class _Gathering:
    """One diagnosis while it is being put together."""

    def __init__(self, invocation: Invocation) -> None:
        self.invocation = invocation
        self.cluster = invocation.cluster
        (self.namespace,) = invocation.namespaces
        self.name: str = invocation.arguments["name"]
        self.kind: str = invocation.arguments["kind"]
        self.findings: list[Finding] = []
        self.not_shown: list[str] = []
        self.answer: Structured = {}

    async def run(self) -> Structured:
        if self.kind == "pod":
            pod: DetailedPod | None = await self.cluster.get(ObjectRef(PODS, self.namespace, self.name), DetailedPod)
        else:
            pod = await self._workload()
        events = await self._events(pod)
        if pod is not None:
            self.findings += of_pod(pod)
            self.answer["pod"] = msgspec.to_builtins(summarize_pod(narrow(pod)))
            await self._node(pod)
        lines, log_of = await self._log(pod) if pod is not None else ([], "")
        self.findings += of_events(events, self.findings)
        telling = of_log(lines) if self.findings else ""
        if telling:
            self.findings.append(Finding("The log says", telling, "Start from this line; get_pod_logs shows more."))
        healthy = not self.findings
        summary = (
            "Nothing is wrong that can be seen."
            if healthy
            else f"{self.findings[0].what}. {self.findings[0].suggestion}"
        )
        subject = f"{self.kind} {self.namespace}/{self.name}"
        return {
            "subject": subject,
            "healthy": healthy,
            "summary": summary,
            "findings": msgspec.to_builtins(self.findings),
            "events": msgspec.to_builtins(events),
            "log": lines,
            "log_of": log_of,
            "not_shown": self.not_shown,
            **self.answer,
        }

    async def _workload(self) -> DetailedPod | None:
        """The workload's own state; returns its worst pod, if it has any."""
        if self.kind == "job":
            job = await self.cluster.get(ObjectRef(JOBS, self.namespace, self.name), Job)
            status = job.status
            self.answer["rollout"] = f"{status.active} active, {status.succeeded} succeeded, {status.failed} failed"
            if any(one.get("type") == "Failed" and one.get("status") == "True" for one in status.conditions or ()):
                self.findings.append(Finding("The job failed", self.answer["rollout"], "Its last pod's log says why."))
            labels = job.spec.selector.match_labels
        else:
            found = await self.cluster.get(ObjectRef(RESOURCES[self.kind], self.namespace, self.name), Workload)
            state = rollout(self.kind, found)
            self.answer["rollout"] = f"{state.status}: {state.message}"
            if state.status != "complete":
                self.findings.append(
                    Finding(f"The rollout is {state.status}", state.message, "The worst pod below says why.")
                )
            labels = found.spec.selector.match_labels
        if not labels:
            return None
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        page = await self.cluster.list(
            ObjectRef(PODS, self.namespace), DetailedPod, label_selector=selector, limit=MAX_PODS
        )
        counts: dict[str, int] = {}
        for pod in page.items:
            word = summarize_pod(narrow(pod)).status
            counts[word] = counts.get(word, 0) + 1
        self.answer["pods"] = counts
        if page.truncated:
            self.not_shown.append(f"pods after the first {MAX_PODS}")
        return max(page.items, key=lambda pod: (len(of_pod(pod)), summarize_pod(narrow(pod)).restarts), default=None)

    async def _events(self, pod: DetailedPod | None) -> list[EventSummary]:
        if not self.invocation.may(EVENTS_PERMISSION):
            self.not_shown.append(f"events: that needs {EVENTS_PERMISSION}")
            return []
        names = [self.name] if pod is None or pod.metadata.name == self.name else [self.name, pod.metadata.name]
        found: list[EventSummary] = []
        for name in names:
            selector = f"involvedObject.name={name}"
            try:
                events, _ = await newest(self.cluster, (self.namespace,), selector, MAX_EVENTS)
            except DomainError as error:
                self.not_shown.append(f"events: {error.public_message}")
                break
            found += events
        return sorted(found, key=lambda event: event.last, reverse=True)[:MAX_EVENTS]

    async def _node(self, pod: DetailedPod) -> None:
        if not pod.spec.node_name:
            return
        if not self.invocation.may(NODES_PERMISSION):
            self.not_shown.append(f"its node: that needs {NODES_PERMISSION}")
            return
        try:
            node = summarize(await self.cluster.get(ObjectRef(NODES, "", pod.spec.node_name), Node))
        except DomainError as error:
            self.not_shown.append(f"its node: {error.public_message}")
            return
        self.answer["node"] = msgspec.to_builtins(node)
        if node.problems or node.status != "Ready":
            evidence = f"{node.status}. {'; '.join(node.problems)}"
            self.findings.append(Finding(f"Node {node.name} has problems", evidence, "An operator should look at it."))

    async def _log(self, pod: DetailedPod) -> tuple[list[str], str]:
        if not self.invocation.may(LOGS):
            self.not_shown.append(f"logs: that needs {LOGS}")
            return [], ""
        statuses = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
        worst = next((one for one in statuses if not one.ready and one.last_state.terminated is not None), None)
        previous = worst is not None and worst.state.running is None
        worst = worst or next((one for one in statuses if not one.ready and one.state.waiting is None), None)
        worst = worst or next((one for one in statuses if one.state.running is not None), None)
        if worst is None:
            return [], ""
        try:
            log = await self.cluster.logs(
                self.namespace,
                pod.metadata.name,
                container=worst.name,
                tail_lines=LOG_LINES,
                previous=previous,
                limit_bytes=LOG_BYTES,
            )
        except DomainError as error:
            self.not_shown.append(f"log of {worst.name}: {error.public_message}")
            return [], ""
        lines = [line[:500] for line in await clean_lines(log.text)]
        return lines, f"{pod.metadata.name}/{worst.name}{', the run before' if previous else ''}"


async def _diagnose(invocation: Invocation) -> Structured:
    return await _Gathering(invocation).run()


def _permission(arguments: Arguments) -> Permission:
    kind: str = arguments["kind"]
    if kind == "pod":
        return PODS_PERMISSION
    resource = JOBS if kind == "job" else RESOURCES[kind]
    return Permission("list", resource.group, resource.plural)


def _needs(arguments: Arguments) -> tuple[Need, ...]:
    pods = () if arguments["kind"] == "pod" else (Need(PODS_PERMISSION),)
    return (
        *pods,
        Need(EVENTS_PERMISSION, required=False),
        Need(LOGS, required=False),
        Need(NODES_PERMISSION, required=False, in_cluster=True),
    )


TOOLS = (
    Tool(
        name="diagnose",
        title="Find out what is wrong",
        description="Looks at a pod, deployment, statefulset, daemonset or job with its events, the log of the run "
        "that failed and its node, and says what is wrong and what to try. Start here.",
        arguments=DiagnoseArguments,
        result=Diagnosis,
        permission=PODS_PERMISSION,
        permission_for=_permission,
        needs=_needs,
        run=_diagnose,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
        text=fenced_json,
    ),
)
