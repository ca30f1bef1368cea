"""The one store: objects, resource versions, bounded history for watches."""

from __future__ import annotations

import copy
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.dev_cluster import errors
from services.dev_cluster.clock import Clock
from services.dev_cluster.kinds import POD, Kind, Object

HISTORY = 5_000
# Young versions count as compacted, as they would on a cluster that has run for a while.
FIRST_VERSION = 1_000


@dataclass(frozen=True)
class Change:
    """One committed write. `type` is ADDED, MODIFIED or DELETED; `old` is None for ADDED."""

    version: int
    type: str
    kind: Kind
    obj: Object
    old: Object | None


Listener = Callable[[Change], None]


class Store:
    """Objects by kind, namespace and name.

    What it hands out is shared: callers copy before they change. Every committed write replaces the whole object,
    takes a new resource version and is told to all listeners before the call returns.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.version = FIRST_VERSION
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._history: deque[Change] = deque(maxlen=HISTORY)
        self._listeners: list[Listener] = []

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None."""
        return self._objects.get(kind, {}).get((namespace, name))

    def read(self, kind: Kind, namespace: str, name: str) -> Object:
        """The object, or 404."""
        obj = self.get(kind, namespace, name)
        if obj is None:
            raise errors.not_found(kind, name)
        return obj

    def objects(self, kind: Kind, namespace: str = "") -> list[Object]:
        """All objects of a kind, in one namespace or everywhere, ordered by namespace and name."""
        objects = self._objects.get(kind, {})
        return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def create(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """Adds an object under a name that must be free."""
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        if self.get(kind, meta.get("namespace", ""), meta["name"]) is not None:
            raise errors.already_exists(kind, meta["name"])
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.clock.stamp()
        if "spec" in obj and kind.has_status:
            meta["generation"] = 1
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink"):
            meta.pop(name, None)
        return obj if dry_run else self._commit("ADDED", kind, obj, None)

    def update(self, kind: Kind, obj: Object, *, dry_run: bool = False) -> Object:
        """Replaces an object. A resourceVersion in `obj` must be the stored one; nothing changed, nothing written."""
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        old = self.read(kind, meta.get("namespace", ""), meta["name"])
        before = old["metadata"]
        if meta.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            raise errors.stale(kind, meta["name"])
        if meta.get("uid") not in (None, "", before["uid"]):
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}"
            raise errors.conflict(kind, meta["name"], why)
        fixed = (
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        )
        for name in (*fixed, "generation"):
            meta.pop(name, None)
            if name in before:
                meta[name] = before[name]
        if obj == old:
            return old
        if "generation" in meta and obj.get("spec") != old.get("spec"):
            meta["generation"] += 1
        if dry_run:
            return obj
        if self._may_vanish(kind, obj):
            return self._commit("DELETED", kind, obj, old)
        return self._commit("MODIFIED", kind, obj, old)

    def delete(self, kind: Kind, obj: Object, *, grace: int = 0, dry_run: bool = False) -> Object:
        """Deletes, or marks as being deleted where finalizers or a grace period hold it back."""
        old = self.read(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        new = copy.deepcopy(old)
        meta = new["metadata"]
        changed = "deletionTimestamp" not in meta or grace < meta.get("deletionGracePeriodSeconds", 0)
        if changed:
            meta["deletionTimestamp"] = self.clock.stamp()
            meta["deletionGracePeriodSeconds"] = grace
        if dry_run or not changed:
            return new
        if self._may_vanish(kind, new):
            return self._commit("DELETED", kind, new, old)
        return self._commit("MODIFIED", kind, new, old)

    def _may_vanish(self, kind: Kind, obj: Object) -> bool:
        meta = obj["metadata"]
        if "deletionTimestamp" not in meta or meta.get("finalizers"):
            return False
        if (obj.get("spec") or {}).get("finalizers"):
            return False
        return kind is not POD or not meta.get("deletionGracePeriodSeconds")

    def _commit(self, type_: str, kind: Kind, obj: Object, old: Object | None) -> Object:
        self.version += 1
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.version)
        key = (meta.get("namespace", ""), meta["name"])
        if type_ == "DELETED":
            self._objects[kind].pop(key)
        else:
            self._objects.setdefault(kind, {})[key] = obj
        change = Change(self.version, type_, kind, obj, old)
        self._history.append(change)
        for listener in tuple(self._listeners):
            listener(change)
        return obj

    def drop(self, kind: Kind) -> None:
        """Deletes every object of a kind that is no longer served."""
        for obj in self.objects(kind):
            self._commit("DELETED", kind, obj, obj)

    def since(self, version: int) -> list[Change]:
        """The changes after a version; 410 when they are no longer all known."""
        oldest = self._history[0].version if self._history else self.version + 1
        if version < oldest - 1:
            raise errors.expired(f"too old resource version: {version} ({oldest - 1})")
        return [change for change in self._history if change.version > version]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tells every later change to the listener; the result ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
