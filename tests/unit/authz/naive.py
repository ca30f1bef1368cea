"""A second evaluator that shares no code with the first: slow, obvious, written from the rules.

It reads permissions as texts and namespaces character by character, and knows the table only as the list of
what exists, copied from interface.md's rules.
"""

from collections.abc import Iterable
from dataclasses import dataclass

NAMESPACED = {
    ("", "pods"): "list get watch create update patch delete restart",
    ("", "services"): "list get watch create update patch delete",
    ("", "secrets"): "list get watch manage",
    ("", "serviceaccounts"): "list get watch create update patch delete",
    ("apps", "deployments"): "list get watch create update patch delete restart",
    ("rbac.authorization.k8s.io", "roles"): "list get watch create update patch delete",
    ("kubegate", "secrets"): "reveal",
}
CLUSTER = {
    ("", "namespaces"): "list get watch create update patch delete",
    ("", "nodes"): "list get watch create update patch delete",
    ("kubegate", "keys"): "create list enable disable rotate delete",
    ("kubegate", "audit"): "read",
}
SUBRESOURCES = {("", "pods", "log"): "logs", ("apps", "deployments", "scale"): "scale"}
NOT_GENERIC = ("secrets", "serviceaccounts", "roles")


@dataclass(frozen=True)
class Grant:
    """Texts of one role, or of a key itself; ``namespaces`` is None for everywhere."""

    permissions: tuple[str, ...]
    namespaces: tuple[str, ...] | None


def glob(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(glob(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return name[:1] == pattern[0] and glob(pattern[1:], name[1:])


def exists(group: str, resource: str, subresource: str, verb: str) -> bool:
    if subresource:
        return SUBRESOURCES.get((group, resource, subresource)) == verb
    kind = (group, resource)
    return verb in (NAMESPACED.get(kind) or CLUSTER.get(kind) or "").split()


def text_covers(text: str, group: str, resource: str, subresource: str, verb: str) -> bool:
    parts = text.split(":")
    system = "kubegate" if group == "kubegate" else "k8s"
    if parts[0] != system:
        return False
    if parts[1:] == ["*"]:
        return True
    verbs = [verb, "*"]
    if verb in ("get", "watch") and system == "k8s":
        verbs.append("list")
    if len(parts) != 3 or parts[2] not in verbs:
        return False
    if parts[1] == resource:
        return True
    generic = (group, resource) in NAMESPACED and resource not in NOT_GENERIC and not subresource
    return parts[1] == "resources" and generic and system == "k8s"


def inside(namespaces: tuple[str, ...] | None, namespace: str) -> bool:
    return namespaces is None or (namespace != "" and any(glob(each, namespace) for each in namespaces))


def may(
    grants: Iterable[Grant],
    cap: tuple[str, ...] | None,
    action: tuple[str, str, str, str],
    namespace: str,
    candidates: Iterable[str],
) -> bool:
    """Whether the action is allowed. ``candidates`` are namespace names among which a shared one is sought,
    for the one permission that needs no more: listing namespaces.
    """
    group, resource, _, verb = action
    if not exists(*action):
        return False
    namespaced = (group, resource) in NAMESPACED
    if namespaced and not namespace and verb not in ("list", "watch"):
        return False
    if not namespaced and namespace:
        return False
    for grant in grants:
        if not any(text_covers(text, *action) for text in grant.permissions):
            continue
        if inside(grant.namespaces, namespace) and inside(cap, namespace):
            return True
        shared = any(inside(grant.namespaces, name) and inside(cap, name) for name in candidates)
        if shared and (group, resource, verb) == ("", "namespaces", "list"):
            return True
    return False
