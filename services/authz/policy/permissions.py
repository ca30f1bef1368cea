"""The one table of what can be granted, and the rules by which a permission follows from an action (R10).

A permission is ``k8s:<resource>:<verb>`` or ``kubegate:<area>:<verb>``. It derives from the resolved action
(group, resource, subresource, verb) and from nothing else: not from the tool's name, not from what a caller
wrote. What the table does not list cannot be granted and is denied. Everything a grant may say to cover a
permission is worked out here, once, as an exact set of texts; so a decision compares strings and matches no
pattern that a caller could have written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

KUBEGATE = "kubegate"
"""The ``group`` of administration and of what lies outside every ``k8s`` wildcard."""

_READ = ("list", "get", "watch")
_COMMON = (*_READ, "create", "update", "patch", "delete")
_RBAC = "rbac.authorization.k8s.io"

SUBRESOURCE_VERBS = {"log": "logs", "scale": "scale"}
"""The closed list of subresources, each with its one verb. No exec, attach, portforward, proxy, token."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, or an area of kubegate (``group`` is ``KUBEGATE``)."""

    group: str
    resource: str
    verbs: tuple[str, ...] = _COMMON
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    generic: bool = True  # whether `k8s:resources:<verb>` covers it


KINDS: tuple[Kind, ...] = (
    Kind("", "pods", (*_COMMON, "restart"), subresources=("log",)),
    Kind("", "services"),
    Kind("", "configmaps"),
    Kind("", "secrets", (*_READ, "manage"), generic=False),
    Kind("", "serviceaccounts", generic=False),
    Kind("", "events"),
    Kind("", "endpoints"),
    Kind("", "persistentvolumeclaims"),
    Kind("", "replicationcontrollers", subresources=("scale",)),
    Kind("", "resourcequotas"),
    Kind("", "limitranges"),
    Kind("", "namespaces", namespaced=False),
    Kind("", "nodes", namespaced=False),
    Kind("", "persistentvolumes", namespaced=False),
    Kind("apps", "deployments", (*_COMMON, "restart"), subresources=("scale",)),
    Kind("apps", "replicasets", subresources=("scale",)),
    Kind("apps", "statefulsets", (*_COMMON, "restart"), subresources=("scale",)),
    Kind("apps", "daemonsets", (*_COMMON, "restart")),
    Kind("apps", "controllerrevisions"),
    Kind("batch", "jobs"),
    Kind("batch", "cronjobs"),
    Kind("autoscaling", "horizontalpodautoscalers"),
    Kind("networking.k8s.io", "ingresses"),
    Kind("networking.k8s.io", "networkpolicies"),
    Kind("networking.k8s.io", "ingressclasses", namespaced=False),
    Kind("discovery.k8s.io", "endpointslices"),
    Kind("policy", "poddisruptionbudgets"),
    Kind("coordination.k8s.io", "leases"),
    Kind("storage.k8s.io", "storageclasses", namespaced=False),
    Kind("scheduling.k8s.io", "priorityclasses", namespaced=False),
    Kind(_RBAC, "roles", generic=False),
    Kind(_RBAC, "rolebindings", generic=False),
    Kind(_RBAC, "clusterroles", namespaced=False),
    Kind(_RBAC, "clusterrolebindings", namespaced=False),
    Kind(KUBEGATE, "keys", ("create", "list", "enable", "disable", "rotate", "delete"), namespaced=False),
    Kind(KUBEGATE, "users", ("create", "list", "update", "enable", "disable", "delete"), namespaced=False),
    Kind(KUBEGATE, "issuers", ("create", "list", "update", "delete"), namespaced=False),
    Kind(KUBEGATE, "certs", ("issue", "list", "rotate"), namespaced=False),
    Kind(KUBEGATE, "policy", ("read", "reload"), namespaced=False),
    Kind(KUBEGATE, "audit", ("read", "attest"), namespaced=False),
    Kind(KUBEGATE, "secrets", ("reveal",)),
    Kind(KUBEGATE, "danger", ("privileged-pod",)),
    Kind(
        KUBEGATE,
        "danger",
        ("delete-namespace", "delete-node", "delete-crd", "drain-node"),
        namespaced=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Permission:
    """One thing that can be allowed. ``covered_by`` holds every text that a grant may use for it."""

    text: str
    kind: Kind
    subresource: str
    verb: str
    covered_by: frozenset[str]

    @property
    def collection(self) -> bool:
        """Whether it concerns the objects of a kind together, so that no namespace means all of them."""
        return self.verb in ("list", "watch")

    @property
    def lists_namespaces(self) -> bool:
        """The one cluster-scoped permission that a grant with namespaces shares: it lists just those."""
        return self.text == "k8s:namespaces:list"


Key = tuple[str, str, str, str]
"""(group, resource, subresource, verb)"""


def _permission(kind: Kind, subresource: str, verb: str) -> Permission:
    if kind.group == KUBEGATE:
        area = f"kubegate:{kind.resource}"
        text = f"{area}:{verb}"
        return Permission(text, kind, subresource, verb, frozenset({text, f"{area}:*", "kubegate:*"}))
    verbs = {verb, "list"} if verb in _READ else {verb}
    resources = [kind.resource]
    if kind.generic and kind.namespaced and not subresource:
        resources.append("resources")
    covered_by = {f"k8s:{resource}:{each}" for resource in resources for each in (*verbs, "*")}
    text = f"k8s:{kind.resource}:{verb}"
    return Permission(text, kind, subresource, verb, frozenset({*covered_by, "k8s:*"}))


def _table() -> Iterator[tuple[Key, Permission]]:
    for kind in KINDS:
        for verb in kind.verbs:
            yield (kind.group, kind.resource, "", verb), _permission(kind, "", verb)
        for subresource in kind.subresources:
            verb = SUBRESOURCE_VERBS[subresource]
            yield (kind.group, kind.resource, subresource, verb), _permission(kind, subresource, verb)


PERMISSIONS: dict[Key, Permission] = dict(_table())
"""Every permission there is, by the resolved action that needs it."""

GRANTABLE: frozenset[str] = frozenset(text for each in PERMISSIONS.values() for text in each.covered_by)
"""Every text that a grant may use."""


def explain_malformed(text: str) -> str:
    """Why a text is not grantable, and what was probably meant."""
    parts = text.split(":")
    if parts[0] not in ("k8s", KUBEGATE) or not 2 <= len(parts) <= 3 or "" in parts:
        return f"{text!r} is not a permission; write k8s:<resource>:<verb>, k8s:<resource>:* or k8s:*"
    if "*" in text and (parts[-1] != "*" or text.count("*") > 1):
        return f"{text!r} is not a permission; `*` may only stand alone and last, as in k8s:pods:* or k8s:*"
    if len(parts) == 2:
        return f"{text!r} is not a permission; the verb is missing, as in {text}:list or {text}:*"
    known = {entry.split(":")[1] for entry in GRANTABLE if entry.startswith(parts[0] + ":")} - {"*"}
    if parts[1] not in known:
        return f"{text!r} names the unknown resource {parts[1]!r}{_suggest(parts[1], known)}"
    head = f"{parts[0]}:{parts[1]}:"
    verbs = sorted(entry.removeprefix(head) for entry in GRANTABLE if entry.startswith(head))
    return f"{text!r} names the unknown verb {parts[2]!r}; {parts[1]} has {', '.join(verbs)}"


def _suggest(word: str, known: set[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
