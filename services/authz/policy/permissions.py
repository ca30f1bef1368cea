"""The one table of what can be granted, and the rules by which a permission follows from an action (R10).

A permission is ``k8s:<resource>:<verb>`` or ``kubegate:<area>:<verb>``. It derives from the resolved action
(group, resource, subresource, verb) and from nothing else: not from the tool's name, not from what a caller
wrote. What the table does not list cannot be granted and is denied. Everything a grant may say to cover a
permission is worked out here, once, as an exact set of texts; so a decision compares strings and matches no
pattern that a caller could have written.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

KUBEGATE = "kubegate"
"""The ``group`` of administration and of what lies outside every ``k8s`` wildcard."""

_READ = ("list", "get", "watch")
_COMMON = (*_READ, "create", "update", "patch", "delete")
_RBAC = "rbac.authorization.k8s.io"

_FOR_AGENTS = frozenset({"secrets", "confirm", "danger"})
_LOOKING = frozenset({"list", "read", "diff", "explain"})
"""Areas of kubegate that are about calls of tools, and verbs of the others that change nothing."""

SUBRESOURCE_VERBS = {"log": "logs", "scale": "scale", "eviction": "evict"}
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
    per_tenant: bool = False  # whether a tenant's principal may, and the service then shows it its tenant only (R13)
    custom: bool = False  # not in the table: only the cluster knows whether it has namespaces
    by_name: bool = False  # whether no wildcard covers it, not even `kubegate:*`


KINDS: tuple[Kind, ...] = (
    Kind("", "pods", (*_COMMON, "restart"), subresources=("log", "eviction")),
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
    Kind("", "nodes", (*_COMMON, "cordon"), namespaced=False),
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
    Kind("apiextensions.k8s.io", "customresourcedefinitions", namespaced=False),
    Kind("admissionregistration.k8s.io", "mutatingwebhookconfigurations", _READ, namespaced=False),
    Kind("admissionregistration.k8s.io", "validatingwebhookconfigurations", _READ, namespaced=False),
    Kind("scheduling.k8s.io", "priorityclasses", namespaced=False),
    Kind(_RBAC, "roles", generic=False),
    Kind(_RBAC, "rolebindings", generic=False),
    Kind(_RBAC, "clusterroles", namespaced=False),
    Kind(_RBAC, "clusterrolebindings", namespaced=False),
    Kind(KUBEGATE, "keys", ("create", "list", "enable", "disable", "rotate", "delete", "withdraw"), namespaced=False),
    Kind(KUBEGATE, "users", ("create", "list", "update", "enable", "disable", "delete"), namespaced=False),
    Kind(KUBEGATE, "issuers", ("create", "list", "update", "delete"), namespaced=False),
    Kind(KUBEGATE, "grants", ("any",), namespaced=False),
    Kind(KUBEGATE, "policy", ("read", "reload", "diff", "rollback"), namespaced=False),
    Kind(KUBEGATE, "policy", ("explain",), namespaced=False, per_tenant=True),
    Kind(KUBEGATE, "elevations", ("request", "approve", "revoke", "list"), namespaced=False, per_tenant=True),
    Kind(KUBEGATE, "audit", ("read",), namespaced=False, per_tenant=True),
    Kind(KUBEGATE, "audit", ("attest", "hold", "retire"), namespaced=False),
    Kind(KUBEGATE, "secrets", ("reveal",)),
    Kind(KUBEGATE, "confirm", ("handle",), by_name=True),
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
    """One thing that can be allowed. ``covered_by`` holds every text that a grant may use for it, ``denied_by`` every
    text of a deny rule that takes it away."""

    text: str
    kind: Kind
    subresource: str
    verb: str
    covered_by: frozenset[str]
    denied_by: frozenset[str]

    @property
    def collection(self) -> bool:
        """Whether it concerns the objects of a kind together, so that no namespace means all of them."""
        return self.verb in ("list", "watch")

    @property
    def in_person(self) -> bool:
        """Whether it changes who may do what, or the record: nobody does that for somebody else (R17)."""
        kind = self.kind
        return kind.group == KUBEGATE and kind.resource not in _FOR_AGENTS and self.verb not in _LOOKING

    @property
    def placeless(self) -> bool:
        """Whether one object may be named without a namespace: whoever may so holds the grant everywhere."""
        # Pods may become privileged by what lies outside namespaces, too: a PersistentVolume, a custom kind.
        return self.kind.custom or self.text == "kubegate:danger:privileged-pod"

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
        every = frozenset({text, f"{area}:*", "kubegate:*"})
        return Permission(text, kind, subresource, verb, frozenset({text}) if kind.by_name else every, every)
    verbs = {verb, "list"} if verb in _READ else {verb}
    resources = [kind.resource]
    if kind.generic and kind.namespaced and not subresource:
        resources.append("resources")
    covered_by = {f"k8s:{resource}:{each}" for resource in resources for each in (*verbs, "*")}
    text = f"k8s:{kind.resource}:{verb}"
    every = frozenset({*covered_by, "k8s:*"})
    return Permission(text, kind, subresource, verb, every, every)


def _table() -> Iterator[tuple[Key, Permission]]:
    for kind in KINDS:
        for verb in kind.verbs:
            yield (kind.group, kind.resource, "", verb), _permission(kind, "", verb)
        for subresource in kind.subresources:
            verb = SUBRESOURCE_VERBS[subresource]
            yield (kind.group, kind.resource, subresource, verb), _permission(kind, subresource, verb)


# A group of somebody's own: a DNS name that is not Kubernetes' own, whose kinds the table lists or nobody may have.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_CUSTOM_GROUP = re.compile(rf"(?!.*(?:^|\.)(?:k8s|kubernetes)\.io$){_LABEL}(?:\.{_LABEL})+")
_PLURAL = re.compile(_LABEL)
_CUSTOM_TEXT = re.compile(rf"k8s:(?P<plural>{_LABEL})\.(?P<group>[a-z0-9.-]+):(?P<verb>[a-z]+|\*)")


@lru_cache(maxsize=4096)
def _custom(key: Key) -> Permission | None:
    """The permission for a custom kind, ``k8s:<plural>.<group>:<verb>``: no other kind can be meant by it."""
    group, resource, subresource, verb = key
    if subresource or verb not in _COMMON or len(group) > 253:
        return None
    if not (_CUSTOM_GROUP.fullmatch(group) and _PLURAL.fullmatch(resource)):
        return None
    named = Kind(group, f"{resource}.{group}", custom=True)
    made = _permission(named, "", verb)
    return Permission(made.text, Kind(group, resource, custom=True), "", verb, made.covered_by, made.denied_by)


class _Permissions(dict[Key, Permission]):
    """The table, and behind it the kinds that a cluster's users have made."""

    def get(self, key: Key, default: Any = None) -> Any:
        """The permission that a resolved action needs; None where nobody can be granted it."""
        found = super().get(key)
        return found if found is not None else _custom(key) or default


class _Grantable(frozenset[str]):
    """The texts of the table, and behind them those of custom kinds."""

    def __contains__(self, text: object) -> bool:
        return super().__contains__(text) or (isinstance(text, str) and custom_kind(text) is not None)


def custom_kind(text: str) -> tuple[str, str, str] | None:
    """(group, plural, verb or ``*``) of a grant for a custom kind; None for every other text."""
    found = _CUSTOM_TEXT.fullmatch(text)
    if found is None or not (_CUSTOM_GROUP.fullmatch(found["group"]) and found["verb"] in (*_COMMON, "*")):
        return None
    return found["group"], found["plural"], found["verb"]


def key_of(text: str) -> Key | None:
    """The resolved action that needs a permission; None for a wildcard and for what is no permission."""
    found = custom_kind(text)
    if found is None:
        return _KEYS.get(text)
    group, plural, verb = found
    return (group, plural, "", verb) if verb != "*" else None


def custom_permissions(texts: Iterable[str]) -> Iterator[Permission]:
    """What grants may give beyond the table: the custom kinds that they name, and all others by a wildcard."""
    for group, plural in sorted({found[:2] for text in texts if (found := custom_kind(text)) is not None}):
        for verb in _COMMON:
            permission = PERMISSIONS.get((group, plural, "", verb))
            if permission is not None:
                yield permission
    for verb in _COMMON:
        yield _permission(_ANY_CUSTOM, "", verb)


_ANY_CUSTOM = Kind("", "resources", custom=True)
"""Stands for custom kinds that no grant names: only wildcards cover them."""

PERMISSIONS: dict[Key, Permission] = _Permissions(_table())
"""Every permission there is, by the resolved action that needs it; ``get`` finds those of custom kinds too."""

GRANTABLE: frozenset[str] = _Grantable(text for each in PERMISSIONS.values() for text in each.covered_by)
"""Every text that a grant may use; ``in`` knows those of custom kinds too."""


_KEYS: dict[str, Key] = {permission.text: key for key, permission in PERMISSIONS.items()}


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
