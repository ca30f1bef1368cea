"""metrics.k8s.io: what running pods and their nodes use. Made up, but steady: it follows from names and the minute."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from services.dev_cluster import errors
from services.dev_cluster.clock import stamp
from services.dev_cluster.kinds import METRICS, NODE, NODE_METRICS, POD, Kind, Object
from services.dev_cluster.store import Store

WINDOW = 60

Usage = tuple[int, int]
"""Millicores of CPU and bytes of memory."""


def answer(store: Store, kind: Kind, namespace: str, name: str, matches: Callable[[Object], bool]) -> Object:
    """One object of the kind, or with name "" the list of them."""
    found = [
        _of_node(store, node) if kind is NODE_METRICS else _of_pod(store, node)
        for node in store.objects(NODE if kind is NODE_METRICS else POD, namespace)
        if matches(node) and (kind is NODE_METRICS or _running(node))
    ]
    if name:
        one = next((each for each in found if each["metadata"]["name"] == name), None)
        if one is None:
            raise errors.not_found(kind, name)
        return one
    return {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": {}, "items": found}


def _running(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _use(store: Store, pod: Object, container: str) -> Usage:
    meta = pod["metadata"]
    seed = f"{meta['namespace']}/{meta['name']}/{container}"
    steady = hashlib.sha256(seed.encode()).digest()
    now = hashlib.sha256(f"{seed}/{int(store.clock.now()) // WINDOW}".encode()).digest()
    return 1 + steady[0] // 4 + now[0] // 32, (16 + steady[1] // 2) * 2**20 + now[1] * 4096


def _usage(use: Usage) -> Object:
    return {"cpu": f"{use[0]}m", "memory": f"{use[1] // 1024}Ki"}


def _shell(store: Store, kind: Kind, meta: Object) -> Object:
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    begun = store.clock.now() // WINDOW * WINDOW
    times = {"timestamp": stamp(begun), "window": f"{WINDOW}s"}
    return {"kind": kind.name, "apiVersion": kind.api_version, "metadata": kept, **times}


def _of_pod(store: Store, pod: Object) -> Object:
    containers = [
        {"name": one["name"], "usage": _usage(_use(store, pod, one["name"]))} for one in pod["spec"]["containers"]
    ]
    return _shell(store, METRICS[0], pod["metadata"]) | {"containers": containers}


def _of_node(store: Store, node: Object) -> Object:
    cpu, memory = 120, 600 * 2**20
    for pod in store.objects(POD):
        if _running(pod) and pod["spec"].get("nodeName") == node["metadata"]["name"]:
            for container in pod["spec"]["containers"]:
                used = _use(store, pod, container["name"])
                cpu, memory = cpu + used[0], memory + used[1]
    return _shell(store, NODE_METRICS, node["metadata"]) | {"usage": _usage((cpu, memory))}
