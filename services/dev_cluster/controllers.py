"""The controller loop: after every change, and whenever a pod is due, bring the store where its objects want it."""

from __future__ import annotations

import asyncio
import math

from services.common.log import get_logger
from services.dev_cluster import budgets, custom, endpoints, kinds
from services.dev_cluster.events import Events
from services.dev_cluster.kinds import FOREGROUND, NAMESPACE, ORPHAN, SERVICE_ACCOUNT, Object
from services.dev_cluster.pods import Pods
from services.dev_cluster.store import Change, Store
from services.dev_cluster.workloads import Workloads

# A pass that keeps writing is a fault of ours; it must not stop the server from answering.
MAX_PASSES = 50

_log = get_logger("dev_cluster.controllers")


class Controllers:
    """All controllers of the cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store
        events = Events(store)
        self.pods = Pods(store, events)
        self._workloads = Workloads(store, events)
        self._changed = asyncio.Event()

    def settle(self) -> float:
        """Runs all controllers until nothing changes; says when something will be due next."""
        due = math.inf
        for _ in range(MAX_PASSES):
            before = self._store.version
            self._definitions()
            self._namespaces()
            self._collect_garbage()
            self._workloads.step()
            due = self.pods.step()
            endpoints.step(self._store)
            budgets.step(self._store)
            if self._store.version == before:
                break
        return due

    async def run(self) -> None:
        """Keeps the cluster settled until cancelled."""

        def wake(_: Change) -> None:
            self._changed.set()

        unsubscribe = self._store.subscribe(wake)
        try:
            while True:
                self._changed.clear()
                due = self._settle_or_report()
                wait = None if due == math.inf else max(0.0, due - self._store.clock.now())
                try:
                    await asyncio.wait_for(self._changed.wait(), wait)
                    # Lets a burst of writes come together instead of settling after each.
                    await asyncio.sleep(0.01)
                except TimeoutError:
                    continue
        finally:
            unsubscribe()

    def _settle_or_report(self) -> float:
        try:
            return self.settle()
        except Exception:  # noqa: BLE001 - one object that a controller cannot handle must not end them all
            _log.exception("controllers failed")
            return math.inf

    def _definitions(self) -> None:
        for definition in self._store.objects(kinds.CRD):
            if not (definition.get("status") or {}).get("conditions"):
                status = custom.established(definition, self._store.clock.stamp())
                self._store.update(kinds.CRD, definition | {"status": status})

    def _namespaces(self) -> None:
        for namespace in self._store.objects(NAMESPACE):
            name = namespace["metadata"]["name"]
            if "deletionTimestamp" in namespace["metadata"]:
                self._empty(namespace, name)
            elif self._store.get(SERVICE_ACCOUNT, name, "default") is None:
                account: Object = {"apiVersion": "v1", "kind": "ServiceAccount"}
                self._store.create(SERVICE_ACCOUNT, account | {"metadata": {"name": "default", "namespace": name}})

    def _empty(self, namespace: Object, name: str) -> None:
        namespace = self._store.update(NAMESPACE, namespace | {"status": {"phase": "Terminating"}})
        left = False
        for kind in kinds.stored():
            for obj in self._store.objects(kind, name) if kind.namespaced else ():
                self._store.delete(kind, obj, grace=_grace(kind, obj))
                left = left or self._store.get(kind, name, obj["metadata"]["name"]) is not None
        if left:
            return
        spec = namespace["spec"] | {"finalizers": []}
        self._store.update(NAMESPACE, namespace | {"spec": spec})

    def _collect_garbage(self) -> None:
        objects = [(kind, obj) for kind in kinds.stored() for obj in self._store.objects(kind)]
        by_uid = {obj["metadata"]["uid"]: (kind, obj) for kind, obj in objects}
        blocked: set[str] = set()
        for kind, obj in objects:
            references = obj["metadata"].get("ownerReferences") or []
            owners = [by_uid[r["uid"]][1] for r in references if r["uid"] in by_uid]
            orphaning = [o for o in owners if ORPHAN in (o["metadata"].get("finalizers") or [])]
            if orphaning:
                gone = {o["metadata"]["uid"] for o in orphaning}
                kept = [r for r in references if r["uid"] not in gone]
                self._store.update(kind, obj | {"metadata": obj["metadata"] | {"ownerReferences": kept}})
                continue
            dying = [o for o in owners if FOREGROUND in (o["metadata"].get("finalizers") or [])]
            blocked |= {o["metadata"]["uid"] for o in dying}
            if references and len(dying) == len(owners) and "deletionTimestamp" not in obj["metadata"]:
                self._store.delete(kind, obj, grace=_grace(kind, obj))
        for kind, obj in objects:
            meta = obj["metadata"]
            finalizers = meta.get("finalizers") or []
            done = {ORPHAN} | (set() if meta["uid"] in blocked else {FOREGROUND})
            if "deletionTimestamp" in meta and done & set(finalizers):
                current = self._store.get(kind, meta.get("namespace", ""), meta["name"])
                if current is not None:
                    kept = [finalizer for finalizer in finalizers if finalizer not in done]
                    self._store.update(kind, current | {"metadata": current["metadata"] | {"finalizers": kept}})


def _grace(kind: kinds.Kind, obj: Object) -> int:
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30)) if kind is kinds.POD else 0
