"""Which permissions a change needs, by what it changes and not by the tool that brings it (R10).

`patch_resource` of nothing but a Deployment's `spec.replicas` is what `scale_deployment` does, so it is decided as that
and done as that; a patch that touches more needs the permission to patch for the rest. Writing Secrets is `manage`,
whatever the verb. What an object is besides may need more: deleting a Namespace, a Node or a definition of a custom
kind, and pods that baseline forbids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.common.errors import InvalidArgument
from services.mcp_core.model import Permission
from services.mcp_core.ports import Resource

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""The annotation of a pod template whose change restarts a workload, as kubectl writes it."""

DRAIN = Permission("drain-node", "kubegate", "danger")
PRIVILEGED_POD = Permission("privileged-pod", "kubegate", "danger")
EVICT = Permission("evict", "", "pods", "eviction")
CORDON = Permission("cordon", "", "nodes")

SCALABLE = frozenset(
    {("apps", "deployments"), ("apps", "statefulsets"), ("apps", "replicasets"), ("", "replicationcontrollers")}
)
RESTARTABLE = frozenset({("apps", "deployments"), ("apps", "statefulsets"), ("apps", "daemonsets")})

_DANGEROUS_DELETES: Mapping[tuple[str, str], Permission] = {
    ("", "namespaces"): Permission("delete-namespace", "kubegate", "danger"),
    ("", "nodes"): Permission("delete-node", "kubegate", "danger"),
    ("apiextensions.k8s.io", "customresourcedefinitions"): Permission("delete-crd", "kubegate", "danger"),
}

_CREDENTIALS = frozenset({"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"})
_REPLICAS = ("spec", "replicas")
_RESTART = ("spec", "template", "metadata", "annotations", RESTARTED_AT)
_UNSCHEDULABLE = ("spec", "unschedulable")

Steps = tuple[str, ...]


def permission_to(verb: str, resource: Resource) -> Permission:
    """To create, patch or delete an object of a kind."""
    if (resource.group, resource.plural) == ("", "secrets"):
        verb = "manage"
    return Permission(verb, resource.group, resource.plural)


def scaling(resource: Resource) -> Permission:
    """To set how many pods a workload has."""
    return Permission("scale", resource.group, resource.plural, "scale")


def restarting(resource: Resource) -> Permission:
    """To have a workload replace its pods by equal ones."""
    return Permission("restart", resource.group, resource.plural)


def permissions_for(resource: Resource, paths: Iterable[Steps]) -> tuple[Permission, ...]:
    """What changing these fields of an object needs; the special ones first. Changing nothing needs the patch."""
    where = (resource.group, resource.plural)
    found: dict[Permission, None] = {}
    rest = False
    for path in paths:
        if path == _REPLICAS and where in SCALABLE:
            found[scaling(resource)] = None
        elif path == _RESTART and where in RESTARTABLE:
            found[restarting(resource)] = None
        elif path == _UNSCHEDULABLE and where == ("", "nodes"):
            found[CORDON] = None
        elif path != ("metadata", "resourceVersion"):
            rest = True
    if rest or not found:
        found[permission_to("patch", resource)] = None
    return tuple(found)


def danger_of_deleting(resource: Resource) -> Permission | None:
    """What deleting an object of a kind needs besides, where all that lies within it goes too."""
    return _DANGEROUS_DELETES.get((resource.group, resource.plural))


def lets_go(paths: Iterable[Steps], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Whether a change of an object comes to deleting it: a sentence on how; "" where it does not.

    The garbage collector deletes what has only owners that are not there, and the last finalizer that goes ends what
    is being deleted: neither asks for the permission to delete.
    """
    touched = {path[1] for path in paths if path[:1] == ("metadata",) and len(path) > 1}
    old, new = (obj.get("metadata") or {} for obj in (before, after))
    if "ownerReferences" in touched and new.get("ownerReferences"):
        return "With these owners it is deleted when they are gone, or are not there."
    went = set(map(str, old.get("finalizers") or ())) - set(map(str, new.get("finalizers") or ()))
    if "finalizers" in touched and went and old.get("deletionTimestamp"):
        return "It is being deleted and waits for the finalizers that this removes."
    return ""


def paths_of(patch: Any) -> list[Steps]:
    """The fields that a patch names: of a merge or strategic patch its leaves, of a JSON patch its pointers."""
    if isinstance(patch, list):
        return [
            pointer(operation[field])
            for operation in patch
            if isinstance(operation, Mapping) and operation.get("op") != "test"
            for field in ("path", "from")
            if isinstance(operation.get(field), str)
        ]
    found: list[Steps] = []
    left: list[tuple[Any, Steps]] = [(patch, ())]
    while left:
        node, steps = left.pop()
        if isinstance(node, Mapping) and node:
            left += [(value, (*steps, str(key))) for key, value in node.items()]
        else:
            found.append(steps)
    return found


def pointer(text: str) -> Steps:
    """The steps of a JSON pointer (RFC 6901)."""
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:])


def replicas_in(change: Any) -> int | None:
    """The number of replicas that a manifest or patch asks for; None where it asks for none."""
    if isinstance(change, list):
        for operation in reversed(change):
            if isinstance(operation, Mapping) and isinstance(operation.get("path"), str):
                found: Any = {"value": operation.get("value")}
                path = pointer(operation["path"])
                if path == _REPLICAS[: len(path)]:
                    for step in ("value", *_REPLICAS[len(path) :]):
                        found = found.get(step) if isinstance(found, Mapping) else None
                    if (count := _count(found)) is not None:
                        return count
        return None
    spec = change.get("spec") if isinstance(change, Mapping) else None
    replicas = spec.get("replicas") if isinstance(spec, Mapping) else None
    return _count(replicas)


def refuse_credentials(manifest: Mapping[str, Any], resource: Resource) -> None:
    """Secrets of some types are credentials to the cluster itself: it writes an account's token into one, as the
    subresource `token` would, or lets nodes join by another.

    Raises:
        InvalidArgument: the manifest is one.
    """
    if (resource.group, resource.plural) == ("", "secrets") and str(manifest.get("type")) in _CREDENTIALS:
        raise InvalidArgument(f"Secrets of type {manifest['type']} are not made here: they open the cluster itself.")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
