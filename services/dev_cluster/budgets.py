"""PodDisruptionBudgets: how many pods may go now, and whether an eviction may."""

from __future__ import annotations

import math
from typing import Any

from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import BUDGET, POD, Object
from services.dev_cluster.pods import is_ready
from services.dev_cluster.selectors import matches_selector
from services.dev_cluster.store import Store


def step(store: Store) -> None:
    """Brings the status of every budget up to date."""
    for budget in store.objects(BUDGET):
        status = _status(store, budget)
        if budget.get("status") != status:
            store.update(BUDGET, budget | {"status": status})


def check(store: Store, pod: Object) -> None:
    """Refuses (429) the eviction of a pod that a budget needs; one that is not ready is nobody's loss."""
    meta = pod["metadata"]
    if not is_ready(pod) or "deletionTimestamp" in meta:
        return
    for budget in store.objects(BUDGET, meta["namespace"]):
        selector = budget["spec"].get("selector")
        if not matches_selector(selector, meta.get("labels") or {}):
            continue
        status = _status(store, budget)
        if status["disruptionsAllowed"] <= 0:
            needs, has = status["desiredHealthy"], status["currentHealthy"]
            name = budget["metadata"]["name"]
            why = f"The disruption budget {name} needs {needs} healthy pods and has {has} currently"
            cause = {"reason": "DisruptionBudget", "message": why}
            message = "Cannot evict pod as it would violate the pod's disruption budget."
            raise ApiError(429, "TooManyRequests", message, {"causes": [cause]})


def _status(store: Store, budget: Object) -> Object:
    spec = budget["spec"]
    selector = spec.get("selector")
    pods = [
        pod
        for pod in store.objects(POD, budget["metadata"]["namespace"])
        if matches_selector(selector, pod["metadata"].get("labels") or {})
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    expected, healthy = len(staying), sum(map(is_ready, staying))
    if "maxUnavailable" in spec:
        desired = max(0, expected - _share(spec["maxUnavailable"], expected))
    else:
        desired = _share(spec.get("minAvailable", 1), expected)
    status: Object = {"currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected}
    return status | {
        "disruptionsAllowed": max(0, healthy - desired),
        "observedGeneration": budget["metadata"].get("generation", 1),
    }


def _share(value: Any, total: int) -> int:
    """An absolute number or a percentage of a total, rounded up as the disruption controller does."""
    return math.ceil(total * int(value[:-1]) / 100) if isinstance(value, str) and value.endswith("%") else int(value)
