"""What is wrong with a pod, a workload or a node, told from what the cluster says of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from services.mcp_core.redaction import redact
from services.mcp_core.tools.events import EventSummary
from services.mcp_core.tools.pod_detail import DetailedPod, DetailedStatus, state

RESTARTS = 5
"""Restarts from which on a pod that runs right now is worth a word."""


class Finding(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Something that is wrong: what, how one can tell, and what to try."""

    what: str
    evidence: str
    suggestion: str


_WAITING = {
    "ImagePullBackOff": "image",
    "ErrImagePull": "image",
    "InvalidImageName": "image",
    "ErrImageNeverPull": "image",
    "CreateContainerConfigError": "config",
    "CreateContainerError": "create",
    "RunContainerError": "create",
}

_SUGGESTIONS = {
    "image": "Check the image's name and tag, that the registry has it, and that the pod's pull secrets are right.",
    "config": "A ConfigMap, Secret or key that the container names is missing: list_configmaps and list_secrets show "
    "what there is.",
    "create": "The container cannot be started as it is specified: read the message, then command and mounts.",
    "memory": "It used more memory than its limit. Raise the limit, or find out what grew: get_pod shows the limits.",
    "command": "The command was not found or may not be run: compare command and image.",
    "signal": "It was told to stop. If nobody did so, a failing liveness probe is the usual reason: read the events.",
    "program": "The program ended by itself with an error: its last lines say why, mostly a setting or a dependency.",
    "done": "The program ended without an error, but its pod wants it to go on: is this a job run as a service?",
}

_SCHEDULING = (
    ("insufficient cpu", "No node has that much CPU free: lower the request, or add nodes."),
    ("insufficient memory", "No node has that much memory free: lower the request, or add nodes."),
    ("taint", "The nodes' taints keep it off: add a toleration, or free a node; list_nodes shows the taints."),
    ("persistentvolumeclaim", "A volume claim is missing or not bound: list_resources of persistentvolumeclaims."),
    ("affinity", "No node fits its affinity or node selector: compare it with the labels of the nodes."),
    ("didn't match", "No node fits its selectors: compare them with the labels of the nodes."),
)

_EVENTS = (
    (
        "FailedMount",
        "A volume cannot be mounted",
        "The Secret, ConfigMap or claim behind it is missing or busy.",
    ),
    ("FailedAttachVolume", "A volume cannot be attached", "It may still be attached to another node."),
    ("Unhealthy", "A probe fails", "Compare the probe's port, path and timing with what the program does."),
    ("FailedCreate", "Pods cannot be created", "Quota, limits or admission refuse them: the message says which."),
    ("FailedScheduling", "It cannot be scheduled", "Read the message: requests, taints, affinity or volumes."),
    ("NodeNotReady", "Its node is not ready", "list_nodes shows the node's problems."),
)


def of_pod(pod: DetailedPod) -> list[Finding]:
    """What the pod itself says."""
    found: list[Finding] = []
    status = pod.status
    if status.reason == "Evicted":
        found.append(
            Finding("The pod was evicted", redact(status.message)[:500], "Its node ran short: set requests and limits.")
        )
    for one in status.conditions or ():
        if one.type == "PodScheduled" and one.status == "False":
            found.append(Finding("The pod cannot be scheduled", redact(one.message)[:500], _scheduling(one.message)))
    for init, statuses in ((True, status.init_container_statuses), (False, status.container_statuses)):
        for container in statuses or ():
            found += _of_container(pod, container, init=init)
    if pod.metadata.deletion_timestamp:
        evidence = f"Deletion was asked for at {pod.metadata.deletion_timestamp}."
        found.append(Finding("The pod is being deleted", evidence, "If it stays, look for finalizers or a lost node."))
    return found


def _of_container(pod: DetailedPod, status: DetailedStatus, *, init: bool) -> Iterator[Finding]:
    name = f"{'Init container' if init else 'Container'} {status.name}"
    waiting, ended = status.state.waiting, status.state.terminated
    last = status.last_state.terminated
    if waiting is not None and waiting.reason in _WAITING:
        yield Finding(f"{name} cannot start: {waiting.reason}", redact(waiting.message)[:500], _hint(waiting.reason))
        return
    crashing = waiting is not None and waiting.reason == "CrashLoopBackOff"
    failed = ended is not None and ended.exit_code != 0
    if crashing or failed:
        cause = ended if failed else last
        what = f"{name} crashes again and again" if crashing else f"{name} failed"
        evidence = f"{status.restart_count} restarts; {state(status.last_state) or state(status.state)}."
        yield Finding(what, evidence, _exit(cause.exit_code if cause else 1, cause.reason if cause else ""))
    elif last is not None and (last.reason == "OOMKilled" or status.restart_count >= RESTARTS):
        evidence = f"{status.restart_count} restarts; last: {state(status.last_state)}."
        yield Finding(f"{name} runs now but was restarted", evidence, _exit(last.exit_code, last.reason))
    elif not init and status.state.running is not None and not status.ready:
        evidence = f"{state(status.state)}, not ready."
        yield Finding(f"{name} runs but is not ready", evidence, "Its readiness probe does not pass (yet).")
    elif waiting is not None and waiting.reason not in ("", "PodInitializing", "ContainerCreating"):
        yield Finding(f"{name} waits: {redact(waiting.reason)}", redact(waiting.message)[:500], "Read the events.")


def _hint(reason: str) -> str:
    return _SUGGESTIONS[_WAITING[reason]]


def _exit(code: int, reason: str) -> str:
    if reason == "OOMKilled" or code == 137:
        return _SUGGESTIONS["memory"]
    if code in (126, 127):
        return _SUGGESTIONS["command"]
    if code in (130, 143):
        return _SUGGESTIONS["signal"]
    return _SUGGESTIONS["done"] if code == 0 else _SUGGESTIONS["program"]


def _scheduling(message: str) -> str:
    lower = message.lower()
    return next((hint for word, hint in _SCHEDULING if word in lower), "Read the message: no node fits the pod.")


def of_events(events: Sequence[EventSummary], known: Sequence[Finding]) -> list[Finding]:
    """What warnings add to the findings so far, each kind of warning once."""
    found: list[Finding] = []
    for reason, what, suggestion in _EVENTS:
        event = next((one for one in events if one.type == "Warning" and one.reason == reason), None)
        doubled = reason == "FailedScheduling" and any("scheduled" in one.what for one in known)
        if event is not None and not doubled:
            found.append(Finding(what, f"{event.message} ({event.count}x, last {event.last})", suggestion))
    return found


_TELLING = re.compile(
    r"error|fatal|panic|exception|traceback|refused|denied|not found|missing|failed|unable", re.IGNORECASE
)


def of_log(lines: Sequence[str]) -> str:
    """The line of a log that most likely says why; empty where none stands out."""
    return next((line[:500] for line in reversed(lines) if _TELLING.search(line)), "")
