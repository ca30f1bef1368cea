"""The workload controllers: Deployment -> ReplicaSet -> Pod, and the simple ones for the other kinds.

Every function brings the store one step nearer to what the objects ask for, and writes nothing when there is
nothing to do, so that calling them until the store stands still is enough.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any

from services.dev_cluster import defaults, history, schema
from services.dev_cluster.events import Events
from services.dev_cluster.kinds import (
    DAEMON_SET,
    DEPLOYMENT,
    JOB,
    NODE,
    POD,
    REPLICA_SET,
    STATEFUL_SET,
    Kind,
    Object,
)
from services.dev_cluster.pods import condition, is_ready
from services.dev_cluster.store import Store
from services.dev_cluster.writes import random_suffix

REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def _owner(obj: Object) -> str:
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def _reference(owner: Object) -> list[Object]:
    reference: Object = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
    }
    return [reference | {"uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}]


def _finished(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _share(value: Any, total: int, *, up: bool) -> int:
    """An absolute number or a percentage of a total."""
    if isinstance(value, str) and value.endswith("%"):
        exact = total * int(value[:-1]) / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def _template_hash(template: Object) -> str:
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:10])


class Workloads:
    """Reconciles all workloads of the store."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events
        self._owned: dict[str, list[Object]] = {}

    def step(self) -> None:
        """One pass over all workloads."""
        self._index()
        for deployment in self._store.objects(DEPLOYMENT):
            if "deletionTimestamp" not in deployment["metadata"]:
                self._deployment(deployment)
        self._index()
        for kind in (REPLICA_SET, STATEFUL_SET, DAEMON_SET, JOB):
            for workload in self._store.objects(kind):
                if "deletionTimestamp" not in workload["metadata"]:
                    self._pods(kind, workload)

    def _index(self) -> None:
        self._owned = {}
        for kind in (POD, REPLICA_SET):
            for obj in self._store.objects(kind):
                if "deletionTimestamp" not in obj["metadata"]:
                    self._owned.setdefault(_owner(obj), []).append(obj)

    def _owned_by(self, owner: Object) -> list[Object]:
        return self._owned.get(owner["metadata"]["uid"], [])

    def _set_status(self, kind: Kind, obj: Object, status: Object) -> None:
        known = schema.fields(f"{kind.model_name}Status")
        status = {key: value for key, value in status.items() if value or known[key].required}
        if "observedGeneration" in known:
            status["observedGeneration"] = obj["metadata"]["generation"]
        self._store.update(kind, obj | {"status": status})

    # Deployments

    def _deployment(self, deployment: Object) -> None:
        spec, meta = deployment["spec"], deployment["metadata"]
        sets = sorted(self._owned_by(deployment), key=_revision)
        current = next((rs for rs in reversed(sets) if _template(rs) == spec["template"]), None)
        if current is None and not spec.get("paused"):
            current = self._new_set(deployment, sets)
            sets.append(current)
        elif current is not None and current is not sets[-1] and not spec.get("paused"):
            current = self._set_revision(current, _revision(sets[-1]) + 1)
            sets = [rs for rs in sets if rs["metadata"]["uid"] != current["metadata"]["uid"]] + [current]
        if current is not None:
            annotations = meta.get("annotations") or {}
            revision = str(_revision(current))
            if annotations.get(REVISION) != revision:
                meta = meta | {"annotations": annotations | {REVISION: revision}}
                deployment = self._store.update(DEPLOYMENT, deployment | {"metadata": meta})
            others = [rs for rs in sets if rs["metadata"]["uid"] != current["metadata"]["uid"]]
            self._roll(deployment, current, others)
            self._forget(deployment, others)
        elif sets:
            self._scale(deployment, sets[-1], spec["replicas"])
        self._deployment_status(deployment, current)

    def _new_set(self, deployment: Object, sets: list[Object]) -> Object:
        spec, meta = deployment["spec"], deployment["metadata"]
        digest = _template_hash(spec["template"])
        template = copy.deepcopy(spec["template"])
        labels = (template.setdefault("metadata", {}).get("labels") or {}) | {HASH: digest}
        template["metadata"]["labels"] = labels
        selector = copy.deepcopy(spec["selector"])
        selector["matchLabels"] = (selector.get("matchLabels") or {}) | {HASH: digest}
        revision = _revision(sets[-1]) + 1 if sets else 1
        annotations = {REVISION: str(revision)}
        cause = (meta.get("annotations") or {}).get("kubernetes.io/change-cause")
        if cause:
            annotations["kubernetes.io/change-cause"] = cause
        replica_set: Object = {"apiVersion": "apps/v1", "kind": "ReplicaSet"}
        replica_set["metadata"] = {
            "name": f"{meta['name']}-{digest}", "namespace": meta["namespace"], "labels": labels,
            "annotations": annotations, "ownerReferences": _reference(deployment),
        }  # fmt: skip
        replica_set["spec"] = {"replicas": 0, "selector": selector, "template": template}
        orphan = self._store.get(REPLICA_SET, *_key(replica_set))
        if orphan is not None:
            adopted = orphan["metadata"] | {"ownerReferences": _reference(deployment)}
            return self._store.update(REPLICA_SET, orphan | {"metadata": adopted})
        return self._store.create(REPLICA_SET, replica_set | {"status": {"replicas": 0}})

    def _set_revision(self, replica_set: Object, revision: int) -> Object:
        meta = replica_set["metadata"]
        annotations = (meta.get("annotations") or {}) | {REVISION: str(revision)}
        return self._store.update(REPLICA_SET, replica_set | {"metadata": meta | {"annotations": annotations}})

    def _roll(self, deployment: Object, current: Object, others: list[Object]) -> None:
        """Moves replicas to the current ReplicaSet within maxSurge and maxUnavailable."""
        spec = deployment["spec"]
        desired, size = spec["replicas"], current["spec"]["replicas"]
        old_total = sum(rs["spec"]["replicas"] for rs in others)
        if spec["strategy"]["type"] == "Recreate":
            for rs in others:
                self._scale(deployment, rs, 0)
            if not any((rs.get("status") or {}).get("replicas") for rs in others) and not old_total:
                self._scale(deployment, current, desired)
            return
        rolling = spec["strategy"]["rollingUpdate"]
        surge = _share(rolling["maxSurge"], desired, up=True)
        slack = _share(rolling["maxUnavailable"], desired, up=False)
        if not surge and not slack:
            slack = 1
        room = desired + surge - old_total - size
        grown = desired if size > desired or not old_total else min(desired, size + max(0, room))
        self._scale(deployment, current, grown)
        ready = {rs["metadata"]["uid"]: sum(map(is_ready, self._owned_by(rs))) for rs in (*others, current)}
        minimum = desired - slack
        # What is not ready serves nobody, so it may go first; what is ready goes only above the minimum.
        spare = max(0, sum(ready.values()) - minimum)
        for rs in others:
            have = rs["spec"]["replicas"]
            going = min(ready[rs["metadata"]["uid"]], spare)
            spare -= going
            self._scale(deployment, rs, min(have, ready[rs["metadata"]["uid"]]) - going)

    def _scale(self, deployment: Object, replica_set: Object, replicas: int) -> None:
        before = replica_set["spec"]["replicas"]
        if before == replicas:
            return
        self._store.update(REPLICA_SET, replica_set | {"spec": replica_set["spec"] | {"replicas": replicas}})
        way = "up" if replicas > before else "down"
        message = f"Scaled {way} replica set {replica_set['metadata']['name']} from {before} to {replicas}"
        self._events.record(deployment, "ScalingReplicaSet", message, "deployment-controller")

    def _forget(self, deployment: Object, others: list[Object]) -> None:
        idle = [rs for rs in others if not rs["spec"]["replicas"] and not (rs.get("status") or {}).get("replicas")]
        for rs in idle[: max(0, len(idle) - deployment["spec"]["revisionHistoryLimit"])]:
            self._store.delete(REPLICA_SET, rs)

    def _deployment_status(self, deployment: Object, current: Object | None) -> None:
        sets = [rs for rs in self._owned_by(deployment) if self._store.get(REPLICA_SET, *_key(rs))]
        total = sum(len(self._owned_by(rs)) for rs in sets)
        ready = sum(sum(map(is_ready, self._owned_by(rs))) for rs in sets)
        updated = len(self._owned_by(current)) if current else 0
        desired, now = deployment["spec"]["replicas"], self._store.clock.stamp()
        rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
        minimum = desired - _share(rolling.get("maxUnavailable", 0), desired, up=False)
        old = deployment.get("status") or {}
        available = condition(old, "Available", ready >= minimum, now, "MinimumReplicasUnavailable",
                              "Deployment does not have minimum availability.")  # fmt: skip
        if ready >= minimum:
            available |= {
                "reason": "MinimumReplicasAvailable",
                "message": "Deployment has minimum availability.",
            }
        done = updated == desired == ready == total
        progressing = condition(old, "Progressing", True, now)
        name = current["metadata"]["name"] if current else ""
        if done:
            text = f'ReplicaSet "{name}" has successfully progressed.'
            progressing |= {"reason": "NewReplicaSetAvailable", "message": text}
        else:
            progressing |= {"reason": "ReplicaSetUpdated", "message": f'ReplicaSet "{name}" is progressing.'}
        for item in (available, progressing):
            before: Object = next((c for c in old.get("conditions") or [] if c["type"] == item["type"]), {})
            same = before.get("reason") == item.get("reason") and before.get("status") == item["status"]
            item["lastUpdateTime"] = before["lastUpdateTime"] if same else now
        status = {
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        status |= {"unavailableReplicas": max(0, desired - ready)}
        self._set_status(DEPLOYMENT, deployment, status | {"conditions": [available, progressing]})

    # Everything that owns pods

    def _pods(self, kind: Kind, workload: Object) -> None:
        pods = self._owned_by(workload)
        if kind is JOB:
            self._job(workload, pods)
            return
        live = [pod for pod in pods if not _finished(pod)]
        if kind is REPLICA_SET:
            live = self._replicas(workload, live)
        else:
            live = self._named(kind, workload, live)
        ready = sum(map(is_ready, live))
        status: Object = {"replicas": len(live), "readyReplicas": ready, "availableReplicas": ready}
        if kind is REPLICA_SET:
            status["fullyLabeledReplicas"] = len(live)
        elif kind is STATEFUL_SET:
            revision = f"{workload['metadata']['name']}-{_template_hash(workload['spec']['template'])}"
            status |= {
                "currentReplicas": len(live),
                "updatedReplicas": len(live),
                "currentRevision": revision,
            }
            status |= {"updateRevision": revision}
        else:
            nodes = len(self._store.objects(NODE))
            status = {
                "desiredNumberScheduled": nodes,
                "currentNumberScheduled": len(live),
                "numberReady": ready,
            }
            status |= {"numberAvailable": ready, "updatedNumberScheduled": len(live), "numberMisscheduled": 0}
        self._set_status(kind, workload, status)

    def _replicas(self, replica_set: Object, live: list[Object]) -> list[Object]:
        excess = len(live) - replica_set["spec"]["replicas"]
        name = replica_set["metadata"]["name"]
        for _ in range(-excess):
            self._add(replica_set, f"{name}-{random_suffix()}", "replicaset-controller")
        # Those not ready go first, then the youngest.
        doomed = sorted(live, key=lambda pod: (is_ready(pod), -int(pod["metadata"]["resourceVersion"])))
        doomed = doomed[: max(0, excess)]
        for pod in doomed:
            self._remove(replica_set, pod, "replicaset-controller")
        return [pod for pod in live if pod not in doomed]

    def _named(self, kind: Kind, workload: Object, live: list[Object]) -> list[Object]:
        """StatefulSets and DaemonSets: one pod for each wanted name; a pod of an older template is replaced."""
        name, component = workload["metadata"]["name"], f"{workload['kind'].lower()}-controller"
        digest = _template_hash(workload["spec"]["template"])
        history.keep(self._store, workload, digest, _reference(workload))
        if kind is STATEFUL_SET:
            wanted = {f"{name}-{i}": "" for i in range(workload["spec"]["replicas"])}
        else:
            nodes = [node["metadata"]["name"] for node in self._store.objects(NODE)]
            wanted = {f"{name}-{_template_hash({'node': node})[:5]}": node for node in nodes}
        kept = []
        for pod in live:
            labels = pod["metadata"].get("labels") or {}
            if pod["metadata"]["name"] in wanted and labels.get("controller-revision-hash") == digest:
                kept.append(pod)
            else:
                self._remove(workload, pod, component)
        for pod_name, node in wanted.items():
            if self._store.get(POD, workload["metadata"]["namespace"], pod_name) is None:
                self._add(workload, pod_name, component, {"controller-revision-hash": digest}, node)
        return kept

    def _job(self, job: Object, pods: list[Object]) -> None:
        phases = [(pod.get("status") or {}).get("phase") for pod in pods]
        done, failed = phases.count("Succeeded"), phases.count("Failed")
        now, old = self._store.clock.stamp(), job.get("status") or {}
        status: Object = {"startTime": old.get("startTime", now), "succeeded": done, "failed": failed}
        active = len(pods) - done - failed
        if done >= job["spec"]["completions"]:
            status["completionTime"] = old.get("completionTime", now)
            status["conditions"] = [condition(old, "Complete", True, now)]
        elif failed > job["spec"]["backoffLimit"]:
            why = {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
            status["conditions"] = [condition(old, "Failed", True, now) | why]
        elif not job["spec"].get("suspend"):
            for _ in range(min(job["spec"]["parallelism"], job["spec"]["completions"] - done) - active):
                self._add(job, f"{job['metadata']['name']}-{random_suffix()}", "job-controller")
        self._set_status(JOB, job, status | {"active": active, "ready": active})

    def _add(
        self, owner: Object, name: str, component: str, labels: dict[str, str] | None = None, node: str = ""
    ) -> None:
        template = copy.deepcopy(owner["spec"]["template"])
        meta = {key: value for key, value in (template.get("metadata") or {}).items() if key != "creationTimestamp"}
        meta |= {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": _reference(owner),
        }
        meta["labels"] = (meta.get("labels") or {}) | (labels or {})
        pod: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
        if node:
            pod["spec"]["nodeName"] = node
        defaults.fill(POD, pod)
        self._store.create(POD, pod)
        self._events.record(owner, "SuccessfulCreate", f"Created pod: {name}", component)

    def _remove(self, owner: Object, pod: Object, component: str) -> None:
        self._store.delete(POD, pod, grace=pod["spec"].get("terminationGracePeriodSeconds", 30))
        self._events.record(owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}", component)


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _revision(replica_set: Object) -> int:
    text = (replica_set["metadata"].get("annotations") or {}).get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def _template(replica_set: Object) -> Object:
    """A ReplicaSet's template as its Deployment wrote it."""
    template: Object = copy.deepcopy(replica_set["spec"]["template"])
    template["metadata"].get("labels", {}).pop(HASH, None)
    return template
