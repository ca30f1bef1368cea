"""RBAC: who may do what. Deny by default; evaluation only reads the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from services.dev_cluster import errors
from services.dev_cluster.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Kind, Object
from services.dev_cluster.selectors import matches_selector
from services.dev_cluster.store import Store

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
EVERYTHING: Object = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
EVERY_PATH: Object = {"verbs": ["*"], "nonResourceURLs": ["*"]}


@dataclass(frozen=True)
class User:
    """An authenticated caller, after impersonation."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """What is to be done: to a resource, or, with `path`, to a non-resource URL."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        """Resource with its subresource, as rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True)
class Decision:
    """Whether, and by which binding."""

    allowed: bool
    reason: str = ""


def rule_allows(rule: Object, action: Action) -> bool:
    """Whether one PolicyRule covers an action."""
    verbs = rule.get("verbs") or []
    if action.verb not in verbs and "*" not in verbs:
        return False
    if action.path:
        return any(_path_matches(pattern, action.path) for pattern in rule.get("nonResourceURLs") or [])
    groups = rule.get("apiGroups") or []
    if action.group not in groups and "*" not in groups:
        return False
    names = rule.get("resourceNames") or []
    if names and action.name not in names:
        return False
    wanted = {"*", action.full_resource}
    if action.subresource:
        wanted.add(f"*/{action.subresource}")
    return not wanted.isdisjoint(rule.get("resources") or [])


def _path_matches(pattern: str, path: str) -> bool:
    return pattern == path or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _is_subject(subject: Object, user: User, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "User":
        return bool(name == user.name)
    if kind == "Group":
        return name in user.groups
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return False


class Rbac:
    """Evaluates the roles and bindings of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def decide(self, user: User, action: Action) -> Decision:
        """Allowed by the first binding that covers the action, else denied."""
        for rule, reason in self.rules(user, action.namespace):
            if rule_allows(rule, action):
                return Decision(True, reason)
        return Decision(False)

    def rules(self, user: User, namespace: str) -> Iterator[tuple[Object, str]]:
        """Every rule a user holds cluster-wide and in a namespace, each with the reason."""
        if MASTERS in user.groups:
            yield EVERYTHING, ""
            yield EVERY_PATH, ""
        for binding in self._store.objects(CLUSTER_ROLE_BINDING):
            yield from self._bound(binding, user, "")
        if namespace:
            for binding in self._store.objects(ROLE_BINDING, namespace):
                yield from self._bound(binding, user, namespace)

    def _bound(self, binding: Object, user: User, namespace: str) -> Iterator[tuple[Object, str]]:
        subject = next((s for s in binding.get("subjects") or [] if _is_subject(s, user, namespace)), None)
        if subject is None:
            return
        ref = binding["roleRef"]
        kind, name = ("RoleBinding", f'"{binding["metadata"]["name"]}/{namespace}"') if namespace else (
            "ClusterRoleBinding", f'"{binding["metadata"]["name"]}"'
        )  # fmt: skip
        reason = (
            f'RBAC: allowed by {kind} {name} of {ref["kind"]} "{ref["name"]}" to {subject["kind"]} "{subject["name"]}"'
        )
        for rule in self.role_rules(ref, namespace):
            yield rule, reason

    def role_rules(self, ref: Object, namespace: str) -> list[Object]:
        """The rules behind a roleRef; none when the role does not exist."""
        if ref.get("kind") == "ClusterRole":
            role = self._store.get(CLUSTER_ROLE, "", ref.get("name", ""))
            return self._aggregated(role) if role else []
        role = self._store.get(ROLE, namespace, ref.get("name", "")) if namespace else None
        return list(role.get("rules") or []) if role else []

    def _aggregated(self, role: Object) -> list[Object]:
        rules = list(role.get("rules") or [])
        for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or []:
            for other in self._store.objects(CLUSTER_ROLE):
                if matches_selector(selector, other["metadata"].get("labels") or {}):
                    rules += other.get("rules") or []
        return rules

    def check_no_escalation(self, user: User, kind: Kind, obj: Object) -> None:
        """Refuses roles and bindings that would hand out more than their author holds."""
        namespace, name = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        if kind in (ROLE, CLUSTER_ROLE):
            granted = list(obj.get("rules") or [])
            exempt = Action("escalate", kind.group, kind.plural, namespace=namespace, name=name)
        elif kind in (ROLE_BINDING, CLUSTER_ROLE_BINDING):
            ref = obj.get("roleRef") or {}
            granted = self.role_rules(ref, namespace)
            plural = CLUSTER_ROLE.plural if ref.get("kind") == "ClusterRole" else ROLE.plural
            exempt = Action("bind", kind.group, plural, namespace=namespace, name=ref.get("name", ""))
        else:
            return
        if self.decide(user, exempt).allowed:
            return
        held = [rule for rule, _ in self.rules(user, namespace)]
        missing = [a for rule in granted for a in _actions(rule) if not any(_covers(r, a) for r in held)]
        if missing:
            who = f'user "{user.name}" (groups={list(user.groups)!r})'
            why = f"{who} is attempting to grant RBAC permissions not currently held"
            raise errors.forbidden(kind, name, f"{why}: {missing[0]}")


def _actions(rule: Object) -> Iterator[Object]:
    """A rule split into rules with one entry in each list."""
    for verb in rule.get("verbs") or []:
        for url in rule.get("nonResourceURLs") or []:
            yield {"verbs": [verb], "nonResourceURLs": [url]}
        for group in rule.get("apiGroups") or []:
            for resource in rule.get("resources") or []:
                for name in rule.get("resourceNames") or [None]:
                    single: Object = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
                    yield single | ({"resourceNames": [name]} if name is not None else {})


def _covers(held: Object, single: Object) -> bool:
    """Whether a held rule grants a single-entry rule; a wildcard is covered only by a wildcard."""
    url = (single.get("nonResourceURLs") or [""])[0]
    if url:
        return rule_allows(held, Action(single["verbs"][0], path=url))
    resource, _, subresource = single["resources"][0].partition("/")
    name = (single.get("resourceNames") or [""])[0]
    return rule_allows(held, Action(single["verbs"][0], single["apiGroups"][0], resource, subresource, name=name))
