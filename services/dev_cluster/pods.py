"""The life of pods as a kubelet would report it: scheduled, started, crashing and backing off, finished, stopped.

Nothing runs. A pod's fate is read off its spec: restart policies other than Always finish, an image that contains
`does-not-exist` cannot be pulled, and the annotation CRASH_AFTER makes the container exit with an error.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from services.dev_cluster.clock import stamp
from services.dev_cluster.events import Events
from services.dev_cluster.kinds import NODE, POD, Object
from services.dev_cluster.store import Store

CRASH_AFTER = "dev-cluster.kubegate.io/crash-after"
UNPULLABLE = "does-not-exist"
START, STOP, FINISH, BACKOFF, MAX_BACKOFF = 1.0, 1.0, 5.0, 10.0, 300.0


@dataclass(frozen=True)
class Run:
    """One run of a pod's containers; `end` is None while it lasts."""

    start: float
    end: float | None = None
    exit_code: int = 0


@dataclass
class Life:
    """Where a pod stands, and when it moves on."""

    state: str = "unscheduled"
    due: float = math.inf
    restarts: int = 0
    runs: list[Run] = field(default_factory=list)
    ip: str = ""


class Pods:
    """Moves all pods along. `speed` divides every delay."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events
        self._lives: dict[str, Life] = {}
        self._addresses = 10
        self.speed = 1.0

    def life(self, pod: Object) -> Life | None:
        """What is known of a pod's runs, for its logs."""
        return self._lives.get(pod["metadata"]["uid"])

    def step(self) -> float:
        """Does all that is due and says when something will be next."""
        now, soonest, alive = self._store.clock.now(), math.inf, set()
        for pod in self._store.objects(POD):
            alive.add(pod["metadata"]["uid"])
            soonest = min(soonest, self._advance(pod, now))
        self._lives = {uid: life for uid, life in self._lives.items() if uid in alive}
        return soonest

    def _advance(self, pod: Object, now: float) -> float:
        life = self._lives.setdefault(pod["metadata"]["uid"], Life())
        if "deletionTimestamp" in pod["metadata"]:
            return self._stop(pod, life, now)
        if life.state == "unscheduled":
            pod = self._schedule(pod, life, now)
        if life.due > now:
            return life.due
        move = {"creating": self._start, "running": self._exit, "backoff": self._restart}[life.state]
        move(pod, life, now)
        self._store.update(POD, pod | {"status": self._status(pod, life)})
        return life.due

    def _schedule(self, pod: Object, life: Life, now: float) -> Object:
        open_ = [node for node in self._store.objects(NODE) if not node["spec"].get("unschedulable")]
        nodes = [node["metadata"]["name"] for node in open_]
        if not nodes and not pod["spec"].get("nodeName"):
            life.due = math.inf
            return self._wait_for_node(pod)
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        node = pod["spec"].get("nodeName") or nodes[hashlib.sha256(name.encode()).digest()[0] % len(nodes)]
        life.state, life.due = "creating", now + START / self.speed
        self._addresses += 1
        life.ip = f"10.244.{self._addresses // 250 % 250}.{self._addresses % 250 + 1}"
        spec = pod["spec"] | {"nodeName": node}
        pod = self._store.update(POD, pod | {"spec": spec, "status": self._status(pod, life)})
        self._events.record(pod, "Scheduled", f"Successfully assigned {name} to {node}", "default-scheduler")
        return pod

    def _wait_for_node(self, pod: Object) -> Object:
        """Says once why a pod cannot be placed; the next change of a node tries again."""
        status = pod.get("status") or {}
        why = "0 nodes are available: all of them were unschedulable."
        now = self._store.clock.stamp()
        waiting = condition(status, "PodScheduled", False, now, "Unschedulable", why)
        if status.get("conditions") == [waiting]:
            return pod
        self._events.record(pod, "FailedScheduling", why, "default-scheduler", warning=True)
        return self._store.update(POD, pod | {"status": status | {"phase": "Pending", "conditions": [waiting]}})

    def _start(self, pod: Object, life: Life, now: float) -> None:
        image = next((c["image"] for c in pod["spec"]["containers"] if UNPULLABLE in c["image"]), "")
        if image:
            life.state, life.due = "unpullable", math.inf
            why = f'Failed to pull image "{image}": not found'
            self._events.record(pod, "Failed", why, "kubelet", warning=True)
            self._events.record(pod, "BackOff", f'Back-off pulling image "{image}"', "kubelet")
            return
        for container in pod["spec"]["containers"]:
            pulled = f'Container image "{container["image"]}" already present on machine'
            self._events.record(pod, "Pulled", pulled, "kubelet")
            self._events.record(pod, "Created", f"Created container: {container['name']}", "kubelet")
            self._events.record(pod, "Started", f"Started container {container['name']}", "kubelet")
        life.state, life.due = "running", math.inf
        life.runs = [*life.runs[-1:], Run(now)]
        seconds = self._crash_after(pod)
        if seconds is not None:
            life.due = now + seconds / self.speed
        elif pod["spec"].get("restartPolicy") != "Always":
            life.due = now + FINISH / self.speed

    def _exit(self, pod: Object, life: Life, now: float) -> None:
        crashed = self._crash_after(pod) is not None
        life.runs[-1] = Run(life.runs[-1].start, now, int(crashed))
        if not crashed or pod["spec"].get("restartPolicy") == "Never":
            life.state, life.due = "failed" if crashed else "succeeded", math.inf
            return
        life.state = "backoff"
        life.due = now + min(BACKOFF * 2 ** min(life.restarts, 10), MAX_BACKOFF) / self.speed
        name = pod["spec"]["containers"][0]["name"]
        why = f"Back-off restarting failed container {name} in pod {pod['metadata']['name']}"
        self._events.record(pod, "BackOff", why, "kubelet", warning=True)

    def _restart(self, pod: Object, life: Life, now: float) -> None:
        life.restarts += 1
        self._start(pod, life, now)

    def _stop(self, pod: Object, life: Life, now: float) -> float:
        meta = pod["metadata"]
        if life.state != "stopping":
            if life.state == "running":
                for container in pod["spec"]["containers"]:
                    self._events.record(pod, "Killing", f"Stopping container {container['name']}", "kubelet")
            life.state = "stopping"
            life.due = now + min(STOP, meta.get("deletionGracePeriodSeconds") or 0) / self.speed
        if life.due > now:
            return life.due
        self._store.delete(POD, pod)
        return math.inf

    def _crash_after(self, pod: Object) -> float | None:
        text = (pod["metadata"].get("annotations") or {}).get(CRASH_AFTER, "")
        return float(text) if text.isdecimal() else None

    def _status(self, pod: Object, life: Life) -> Object:
        phase = {"running": "Running", "backoff": "Running", "succeeded": "Succeeded", "failed": "Failed"}
        now = self._store.clock.stamp()
        old = pod.get("status") or {}
        ready = life.state == "running"
        initialized = life.state not in ("creating", "unpullable")
        reason = "PodCompleted" if life.state == "succeeded" else "ContainersNotReady"
        conditions = [
            condition(old, "PodReadyToStartContainers", initialized, now),
            condition(old, "Initialized", True, now),
            condition(old, "Ready", ready, now, reason),
            condition(old, "ContainersReady", ready, now, reason),
            condition(old, "PodScheduled", True, now),
        ]
        status: Object = {"phase": phase.get(life.state, "Pending"), "conditions": conditions}
        status |= {"startTime": old.get("startTime", now), "hostIP": "192.168.49.2", "qosClass": _qos(pod)}
        if initialized:
            status |= {"podIP": life.ip, "podIPs": [{"ip": life.ip}]}
        status["containerStatuses"] = [self._container(container, life) for container in pod["spec"]["containers"]]
        return status

    def _container(self, container: Object, life: Life) -> Object:
        image = container["image"]
        running = life.state == "running"
        digest = hashlib.sha256(image.encode()).hexdigest()
        result: Object = {"name": container["name"], "image": image, "ready": running, "started": running}
        result |= {"restartCount": life.restarts, "imageID": "", "lastState": {}}
        ended = [run for run in life.runs if run.end is not None]
        if life.runs:
            result["imageID"] = f"{image.partition(':')[0]}@sha256:{digest}"
            result["containerID"] = _container_id(container["name"], life, life.runs[-1])
        if running:
            result["state"] = {"running": {"startedAt": stamp(life.runs[-1].start)}}
        elif life.state in ("succeeded", "failed"):
            result["state"] = {"terminated": _terminated(container["name"], life, ended.pop())}
        elif life.state == "backoff":
            why = "back-off restarting failed container; see the previous logs"
            result["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": why}}
        elif life.state == "unpullable":
            why = f'Back-off pulling image "{image}"'
            result["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": why}}
        else:
            result["state"] = {"waiting": {"reason": "ContainerCreating"}}
        if ended:
            result["lastState"] = {"terminated": _terminated(container["name"], life, ended[-1])}
        return result


def _container_id(name: str, life: Life, run: Run) -> str:
    return "containerd://" + hashlib.sha256(f"{name}/{life.ip}/{run.start}".encode()).hexdigest()


def _terminated(name: str, life: Life, run: Run) -> Object:
    reason = "Error" if run.exit_code else "Completed"
    result: Object = {
        "exitCode": run.exit_code,
        "reason": reason,
        "containerID": _container_id(name, life, run),
    }
    return result | {"startedAt": stamp(run.start), "finishedAt": stamp(run.end or run.start)}


def _qos(pod: Object) -> str:
    resources: list[dict[str, Any]] = [c.get("resources") or {} for c in pod["spec"]["containers"]]
    if not any(resources):
        return "BestEffort"
    guaranteed = all(r.get("limits") and r.get("limits") == r.get("requests") for r in resources)
    return "Guaranteed" if guaranteed else "Burstable"


def condition(old: Object, type_: str, holds: bool, now: str, reason: str = "", message: str = "") -> Object:
    """A condition, keeping its last transition time while its status stays the same."""
    status = "True" if holds else "False"
    before: Object = next((c for c in old.get("conditions") or [] if c["type"] == type_), {})
    since = before["lastTransitionTime"] if before.get("status") == status else now
    result: Object = {"type": type_, "status": status, "lastTransitionTime": since}
    if reason and not holds:
        result["reason"] = reason
        result["message"] = message or reason
    return result


def is_ready(pod: Object) -> bool:
    """Whether the pod reports Ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
