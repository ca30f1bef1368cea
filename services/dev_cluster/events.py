"""Records what happened to objects as Event objects, repeated ones folded into a count."""

from __future__ import annotations

import secrets
from typing import Any

from services.dev_cluster.kinds import EVENT, Object
from services.dev_cluster.store import Store

KEPT = 1_000


class Events:
    """The event recorder of the controllers. Keeps the most recent events only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: dict[tuple[str, ...], tuple[str, str]] = {}

    def record(self, obj: Object, reason: str, message: str, component: str, *, warning: bool = False) -> None:
        """Says that something happened to an object, now."""
        meta = obj["metadata"]
        namespace = meta.get("namespace") or "default"
        key = (meta["uid"], reason, message)
        now = self._store.clock.stamp()
        known = self._store.get(EVENT, *self._names[key]) if key in self._names else None
        if known is not None:
            self._store.update(EVENT, known | {"count": known["count"] + 1, "lastTimestamp": now})
            return
        name = f"{meta['name']}.{secrets.token_hex(8)}"
        involved: dict[str, Any] = {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": meta["name"],
        }
        involved |= {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        if "namespace" in meta:
            involved["namespace"] = meta["namespace"]
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
        }
        event |= {"involvedObject": involved, "reason": reason, "message": message, "count": 1}
        event |= {"type": "Warning" if warning else "Normal", "firstTimestamp": now, "lastTimestamp": now}
        event |= {"source": {"component": component}, "eventTime": None, "reportingComponent": component}
        event["reportingInstance"] = ""
        self._store.create(EVENT, event)
        self._names[key] = (namespace, name)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._names) > KEPT:
            oldest = next(iter(self._names))
            event = self._store.get(EVENT, *self._names.pop(oldest))
            if event is not None:
                self._store.delete(EVENT, event)
