"""Decides. A policy is compiled to dictionaries when it is loaded; a decision only looks texts up.

Rules: default deny; a permission and its place come from the same grant; the credential's own namespaces and
tools cap every role (R4); an empty namespace is never guessed (R14); what the table of permissions does not
list is denied (R10).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from services.authz.policy.model import Action, Allowed, Decision, Denied, Policy, Principal, Reason
from services.authz.policy.permissions import KUBEGATE, PERMISSIONS, Permission
from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope, is_namespace

MAX_NAME = 253
_OBJECT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:_-]*[A-Za-z0-9])?")
_CLUSTER_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class _Grants:
    """The grants of one role: each text with its number, all in one scope."""

    role: str
    scope: Scope
    numbers: dict[str, int]

    @classmethod
    def of(cls, role: str, permissions: Iterable[str], scope: Scope) -> "_Grants":
        numbers: dict[str, int] = {}
        for number, text in enumerate(permissions, start=1):
            numbers.setdefault(text, number)
        return cls(role, scope, numbers)

    def number(self, permission: Permission) -> int | None:
        """The first grant that covers a permission, counted from 1."""
        found = [self.numbers[text] for text in permission.covered_by if text in self.numbers]
        return min(found, default=None)

    def rule_id(self, number: int) -> str:
        return f"role:{self.role}#{number}" if self.role else f"direct#{number}"


class Engine:
    """One policy, ready to decide. Immutable: a reload makes a new one."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.revision = policy.revision
        self._roles = {each.name: _Grants.of(each.name, each.permissions, each.scope) for each in policy.roles}

    def decide(self, principal: Principal, action: Action) -> Decision:
        """Whether a principal may do something. Roles are tried in the principal's order, then its own
        permissions; the first grant that covers the action allows it.
        """
        permission = _resolve(action)
        if not isinstance(permission, Permission):
            return permission
        blocked, elsewhere = "", NOWHERE
        for grants in self._grants(principal):
            number = grants.number(permission)
            if number is None:
                continue
            if not _covers(grants.scope, permission, action.namespace):
                elsewhere = elsewhere.union(grants.scope)
                continue
            blocked = _cap(principal, permission, action, grants.scope)
            if not blocked:
                return Allowed(permission.text, grants.rule_id(number), grants.role)
        return _deny(permission, action, blocked, elsewhere)

    def allowed_scope(self, principal: Principal, action: Action) -> Scope:
        """Where a principal may do something, whatever namespace the action names. Not a decision."""
        permission = PERMISSIONS.get((action.group, action.resource, action.subresource, action.verb))
        if permission is None or not _may_use(principal, action.tool):
            return NOWHERE
        scope = NOWHERE
        for grants in self._grants(principal):
            if grants.number(permission) is not None:
                scope = scope.union(grants.scope)
        scope = scope.intersect(principal.namespaces)
        if permission.kind.namespaced or permission.lists_namespaces or scope.everything:
            return scope
        return NOWHERE

    def _grants(self, principal: Principal) -> Iterable[_Grants]:
        for name in principal.roles:
            grants = self._roles.get(name)
            if grants is not None:
                yield grants
        if principal.permissions:
            yield _Grants.of("", principal.permissions, principal.namespaces)


def _resolve(action: Action) -> Permission | Denied:
    """The permission that an action needs, or why it cannot be one."""
    permission = PERMISSIONS.get((action.group, action.resource, action.subresource, action.verb))
    if permission is None:
        return Denied(Reason.INVALID_ACTION, "The action is not one that can be granted.")
    names = _OBJECT_NAME.fullmatch(action.name) if action.group != KUBEGATE else action.name.isprintable()
    if action.name and not (names and len(action.name) <= MAX_NAME):
        return Denied(Reason.INVALID_ACTION, "The action's object name is malformed.")
    if action.cluster and not (_CLUSTER_NAME.fullmatch(action.cluster) and len(action.cluster) <= MAX_NAME):
        return Denied(Reason.INVALID_ACTION, "The action's cluster name is malformed.")
    if not permission.kind.namespaced:
        if action.namespace:
            return Denied(Reason.INVALID_ACTION, f"{action.resource} are outside namespaces; name none.")
    elif not action.namespace:
        if not permission.placeless and (not permission.collection or action.name):
            return Denied(Reason.INVALID_ACTION, "The action names no namespace, and none is guessed.")
    elif not is_namespace(action.namespace):
        return Denied(Reason.INVALID_ACTION, "The action's namespace is malformed.")
    return permission


def _covers(scope: Scope, permission: Permission, namespace: str) -> bool:
    if namespace:
        return scope.covers_namespace(namespace)
    return scope.everything or (permission.lists_namespaces and not scope.empty)


def _cap(principal: Principal, permission: Permission, action: Action, granted: Scope) -> str:
    """What keeps the credential from using a grant; empty where nothing does."""
    if not _may_use(principal, action.tool):
        return "this credential may not use this tool"
    # To list namespaces, a share is enough, so grant and cap must have a namespace in common.
    scope = granted.intersect(principal.namespaces) if permission.lists_namespaces else principal.namespaces
    if not _covers(scope, permission, action.namespace):
        return f"this credential is limited to {_where(principal.namespaces)}"
    return ""


def _may_use(principal: Principal, tool: str) -> bool:
    return not principal.tools or tool in principal.tools


def _deny(permission: Permission, action: Action, blocked: str, elsewhere: Scope) -> Denied:
    if blocked:
        reason, why = Reason.CREDENTIAL_CAP, blocked
    elif not elsewhere.empty:
        reason, why = Reason.NO_GRANT, f"it is granted only in {_where(elsewhere)}"
    else:
        reason, why = Reason.NO_GRANT, "no role or permission of this credential grants it"
    place = f"in namespace {action.namespace}" if action.namespace else "outside namespaces"
    explanation = f"{permission.text} {place} is not allowed: {why}."
    return Denied(reason, explanation, permission.text, action.namespace)


def _where(scope: Scope) -> str:
    if scope == EVERYWHERE:
        return "every namespace"
    patterns = scope.patterns()
    more = f" and {len(patterns) - _SHOWN} more" if len(patterns) > _SHOWN else ""
    return ", ".join(patterns[:_SHOWN]) + more if patterns else "no namespace"
