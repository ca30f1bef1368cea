"""The way of every API write: decode, keep status apart, fill in, validate, record ownership, store."""

from __future__ import annotations

import copy
import ipaddress
import secrets
from dataclasses import dataclass, field
from typing import Any

from services.dev_cluster import defaults, errors, kinds, managed, schema, validation
from services.dev_cluster.kinds import Kind, Object
from services.dev_cluster.rbac import Rbac, User
from services.dev_cluster.store import Store

# The parts of roles and bindings that hand out permissions.
_GRANTING = ("rules", "aggregationRule", "roleRef", "subjects")
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


@dataclass
class Options:
    """How a write is to be done. `warnings` collects what the answer should warn about."""

    user: User
    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)


class Writer:
    """Creates and updates objects on behalf of API callers."""

    def __init__(self, store: Store, rbac: Rbac) -> None:
        self._store = store
        self._rbac = rbac

    def create(self, kind: Kind, namespace: str, body: Object, options: Options) -> Object:
        """Stores a new object in the namespace of the request."""
        new = self._decode(kind, namespace, body, options)
        new["metadata"].pop("managedFields", None)
        self._complete_new(kind, namespace, new, options)
        managed.track_update(None, new, options.manager, self._store.clock.stamp())
        return self._store.create(kind, new, dry_run=options.dry_run)

    def update(self, kind: Kind, old: Object, body: Object, options: Options, subresource: str = "") -> Object:
        """Replaces an object, or with `subresource` only that part of it."""
        new = self._decode(kind, old["metadata"].get("namespace", ""), body, options)
        self._complete_changed(kind, old, new, options, subresource)
        if subresource:
            version = new["metadata"].get("resourceVersion")
            new = _merged_part(old, new, subresource)
            new["metadata"]["resourceVersion"] = version
        managed.track_update(old, new, options.manager, self._store.clock.stamp(), subresource)
        return self._store.update(kind, new, dry_run=options.dry_run)

    def apply(self, kind: Kind, namespace: str, old: Object | None, body: Object, options: Options) -> Object:
        """Server-side apply; creates the object when there is none."""
        wanted = self._decode(kind, namespace, body, options)
        now = self._store.clock.stamp()
        new = managed.apply(kind, old, wanted, options.manager, now, force=options.force)
        if old is None:
            if uid := wanted["metadata"].get("uid"):
                why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                raise errors.conflict(kind, wanted["metadata"].get("name", ""), why)
            self._complete_new(kind, namespace, new, options)
            return self._store.create(kind, new, dry_run=options.dry_run)
        self._complete_changed(kind, old, new, options, "")
        return self._store.update(kind, new, dry_run=options.dry_run)

    def _complete_new(self, kind: Kind, namespace: str, new: Object, options: Options) -> None:
        """Makes a decoded object fit to be stored, or refuses it."""
        meta = new["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"][:58] + random_suffix()
        if kind.namespaced:
            self._require_namespace(kind, namespace, meta.get("name", ""))
        if kind.has_status:
            new.pop("status", None)
        defaults.fill(kind, new)
        validation.check(kind, new, None)
        if kind is kinds.SERVICE:
            self._allocate_ip(new)
        self._rbac.check_no_escalation(options.user, kind, new)

    def _complete_changed(self, kind: Kind, old: Object, new: Object, options: Options, subresource: str) -> None:
        """Makes a decoded change of an object fit to be stored, or refuses it."""
        name, given = old["metadata"]["name"], new["metadata"].setdefault("name", old["metadata"]["name"])
        if given != name:
            why = f"the name of the object ({given}) does not match the name on the URL ({name})"
            raise errors.bad_request(why)
        if subresource:
            return
        if kind.has_status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = copy.deepcopy(old["status"])
        defaults.fill(kind, new)
        _keep_assigned(kind, old, new)
        validation.check(kind, new, old)
        if any(old.get(part) != new.get(part) for part in _GRANTING):
            self._rbac.check_no_escalation(options.user, kind, new)

    def delete(self, kind: Kind, old: Object, deletion: Object, *, dry_run: bool = False) -> Object:
        """Deletes as DeleteOptions ask: preconditions, propagation, grace. Answers with a Status or what is left."""
        meta = old["metadata"]
        wanted = deletion.get("preconditions") or {}
        for name in ("uid", "resourceVersion"):
            if wanted.get(name) not in (None, "", meta.get(name)):
                why = f"Precondition failed: {name} in precondition: {wanted[name]}, in object meta: {meta.get(name)}"
                raise errors.conflict(kind, meta["name"], why)
        policy = deletion.get("propagationPolicy") or ("Orphan" if deletion.get("orphanDependents") else "Background")
        hold = {"Foreground": kinds.FOREGROUND, "Orphan": kinds.ORPHAN}.get(policy)
        finalizers = meta.get("finalizers") or []
        if hold and hold not in finalizers and not dry_run:
            old = self._store.update(kind, old | {"metadata": meta | {"finalizers": [*finalizers, hold]}})
        left = self._store.delete(kind, old, grace=_grace(kind, old, deletion), dry_run=dry_run)
        if dry_run or self._store.get(kind, meta.get("namespace", ""), meta["name"]) is not None:
            return left
        details = {"name": meta["name"], "group": kind.group, "kind": kind.plural, "uid": meta["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _decode(self, kind: Kind, namespace: str, body: Any, options: Options) -> Object:
        if not isinstance(body, dict):
            raise errors.bad_request("the body of the request is not an object")
        given = (body.get("apiVersion") or kind.api_version, body.get("kind") or kind.name)
        if given != (kind.api_version, kind.name):
            why = f"the API version and kind in the data {given} do not match the expected"
            raise errors.bad_request(f"{why} ({kind.api_version}, {kind.name})")
        clean, unknown = schema.decode(kind, body)
        problems = [f'unknown field "{path}"' for path in unknown]
        if problems and options.validation == "Strict":
            why = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}'
            raise errors.bad_request(f"{why}: strict decoding error: {', '.join(problems)}")
        if options.validation == "Warn":
            options.warnings += problems
        new: Object = {"apiVersion": kind.api_version, "kind": kind.name} | copy.deepcopy(clean)
        meta = new.setdefault("metadata", {})
        if kind.namespaced:
            if meta.setdefault("namespace", namespace) != namespace:
                raise errors.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            meta.pop("namespace", None)
        return new

    def _require_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        holder = self._store.read(kinds.NAMESPACE, "", namespace)
        if holder["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise errors.forbidden(kind, name, why)

    def _allocate_ip(self, service: Object) -> None:
        spec = service["spec"]
        if spec.get("clusterIP") or spec["type"] == "ExternalName":
            if spec.get("clusterIP"):
                spec["clusterIPs"] = [spec["clusterIP"]]
            return
        taken = {(other.get("spec") or {}).get("clusterIP") for other in self._store.objects(kinds.SERVICE)}
        size = defaults.SERVICE_RANGE.num_addresses
        while True:
            address = str(ipaddress.ip_address(int(defaults.SERVICE_RANGE[0]) + 10 + secrets.randbelow(size - 20)))
            if address not in taken:
                break
        spec["clusterIP"], spec["clusterIPs"] = address, [address]


def random_suffix(length: int = 5) -> str:
    """The random end of a generated name."""
    return "".join(secrets.choice(_NAME_ALPHABET) for _ in range(length))


def _grace(kind: Kind, obj: Object, deletion: Object) -> int:
    if kind is not kinds.POD or (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = deletion.get("gracePeriodSeconds")
    return int(obj["spec"].get("terminationGracePeriodSeconds", 30)) if asked is None else max(0, int(asked))


def _merged_part(old: Object, new: Object, subresource: str) -> Object:
    """The old object with the part that a subresource writes."""
    result = copy.deepcopy(old)
    if subresource == "status":
        result["status"] = new.get("status") or {}
    elif subresource == "finalize":
        result["spec"] = new.get("spec") or {}
    elif subresource == "ephemeralcontainers":
        result["spec"]["ephemeralContainers"] = (new.get("spec") or {}).get("ephemeralContainers") or []
    return result


def _keep_assigned(kind: Kind, old: Object, new: Object) -> None:
    """Carries over what the cluster assigned and a replacement left out."""
    if kind is kinds.SERVICE and new["spec"].get("type") != "ExternalName":
        for name in ("clusterIP", "clusterIPs"):
            if old["spec"].get(name):
                new["spec"].setdefault(name, old["spec"][name])
    if kind is kinds.POD and "nodeName" in old["spec"]:
        new["spec"].setdefault("nodeName", old["spec"]["nodeName"])
