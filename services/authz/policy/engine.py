"""Decides. A policy is compiled to dictionaries when it is loaded; a decision only looks texts up.

Rules: default deny; a deny rule beats every allow; a permission and its place come from the same grant; the
credential's own namespaces and tools cap every role (R4); a tenant's principal stays in its namespaces (R13); who acts
for somebody else changes nothing of who may do what (R17);
an empty namespace is never guessed (R14); what the table of permissions does not list is denied (R10).

A condition without an answer grants nothing and does not lift a denial.
"""

from collections.abc import Sequence
from typing import Any

from services.authz.policy.model import (
    UNKNOWN,
    Action,
    Allowed,
    Circumstances,
    Decision,
    Denied,
    DenyRule,
    Elevation,
    Policy,
    Principal,
    Reason,
)
from services.authz.policy.permissions import PERMISSIONS, Key, Permission
from services.authz.policy.profile import Candidate, Entry, Held, Profile, Profiles, condition_values
from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope
from services.authz.policy.shapes import NOT_GRANTABLE, bad_name, is_cluster, malformed

MAX_PROFILES = 4_096
MAX_MEMO = 1_024
"""Namespaces for which one principal's decisions about one permission are remembered."""

MAX_ENTRIES = 1_024
"""Permissions, of which custom kinds make as many as a caller thinks of, that are remembered for one principal."""

IN_PERSON = (
    "with this token somebody acts for its subject, and this is done in person only; use a token of your own, one that "
    "was not exchanged with an actor_token"
)

_SHOWN = 8


class Engine:
    """One policy, ready to decide. Immutable but for what it remembers: a reload makes a new one."""

    def __init__(self, policy: Policy, elevations: Sequence[Elevation] = (), *, revision: str = "") -> None:
        self.policy = policy
        self.revision = revision or policy.revision
        self._compile(Profiles(policy), elevations)
        self._denies: dict[str, list[DenyRule]] = {}
        for rule in policy.deny:
            for text in dict.fromkeys(rule.permissions):
                self._denies.setdefault(text, []).append(rule)

    def _compile(self, profiles: Profiles, elevations: Sequence[Elevation]) -> None:
        self.profiles = profiles
        self._elevations: dict[tuple[str, str], list[Elevation]] = {}
        for each in elevations:
            self._elevations.setdefault((each.issuer, each.subject), []).append(each)
        self._made: dict[int, Profile] = {}

    def with_elevations(self, elevations: Sequence[Elevation], revision: str) -> "Engine":
        """The same policy with other elevations in force; nothing is compiled again."""
        engine = Engine.__new__(Engine)
        engine.policy, engine.revision, engine._denies = self.policy, revision, self._denies
        engine._compile(self.profiles, elevations)
        return engine

    def apart(self) -> "Engine":
        """The same with a memory of its own: for principals that nobody is."""
        engine = Engine.__new__(Engine)
        engine.policy, engine.revision, engine._denies = self.policy, self.revision, self._denies
        engine.profiles, engine._elevations, engine._made = self.profiles, self._elevations, {}
        return engine

    def decide(self, principal: Principal, action: Action, at: Circumstances = UNKNOWN) -> Decision:
        """Whether a principal may do something. Deny rules come first, then the principal's roles in their
        order, its bindings, its elevations and its own permissions; the first grant that covers the action
        allows it.
        """
        profile = self._made.get(id(principal))
        if profile is None or at.now >= profile.until:
            profile = self.profile(principal, at.now)
        key = (action.group, action.resource, action.subresource, action.verb)
        entry = profile.entries.get(key)
        if entry is None:
            permission = PERMISSIONS.get(key)
            if permission is None:
                return NOT_GRANTABLE
            entry = self._entry(profile, key, permission)
        memo = entry.memo
        if memo is not None:
            decision = memo.get(action.namespace)
            # A remembered namespace is well formed; the names are the caller's and new each time.
            if (
                decision is not None
                and (not action.name or (action.namespace and not bad_name(entry.permission, action.name)))
                and (not action.cluster or is_cluster(action.cluster))
            ):
                return decision
        refused = malformed(entry.permission, action)
        if refused is not None:
            return refused
        decision = _decide(profile, entry, action, at)
        if memo is not None:
            if len(memo) >= MAX_MEMO:
                memo.clear()
            memo[action.namespace] = decision
        return decision

    def allowed_scope(self, principal: Principal, action: Action, at: Circumstances = UNKNOWN) -> Scope:
        """Where a principal may do something, whatever namespace the action names. Not a decision: grants
        count whatever their conditions, and what deny rules take out of a pattern is in ``denied_scope``.
        """
        permission = PERMISSIONS.get((action.group, action.resource, action.subresource, action.verb))
        if permission is None or not _may_use(principal, action.tool) or (principal.actors and permission.in_person):
            return NOWHERE
        profile = self.profile(principal, at.now)
        scope = NOWHERE
        for held in profile.held:
            if held.grants.number(permission) is not None:
                scope = scope.union(held.scope)
        if permission.kind.per_tenant and not profile.tenancy.empty:
            scope = scope.intersect(principal.namespaces)
        else:
            scope = scope.intersect(principal.namespaces).intersect(profile.tenancy)
        scope = scope.without(self.denied_scope(action))
        if permission.kind.namespaced or permission.lists_namespaces or scope.everything:
            return scope
        return NOWHERE

    def denied_scope(self, action: Action) -> Scope:
        """Where deny rules without a condition deny something to everybody, whoever owns it."""
        permission = PERMISSIONS.get((action.group, action.resource, action.subresource, action.verb))
        scope = NOWHERE
        if permission is None:
            return scope
        for rule in self.denies(permission):
            if rule.condition is None and (rule.scope.everything or permission.kind.namespaced):
                scope = scope.union(rule.scope)
        return scope

    def profile(self, principal: Principal, now: float) -> Profile:
        """What the policy says about a principal; remembered for this very object."""
        made = self._made.get(id(principal))
        if made is not None and now < made.until:
            return made
        elevations = self._elevations.get((principal.issuer, principal.subject), ())
        made = self.profiles.make(principal, elevations, now)
        if len(self._made) >= MAX_PROFILES:
            self._made.clear()
        # The profile keeps the principal alive, so that no other object can have its id.
        self._made[id(principal)] = made
        return made

    def denies(self, permission: Permission, tenancy: Scope = EVERYWHERE) -> list[DenyRule]:
        """The deny rules that name a permission, in the order of the policy. Those that hold only outside a
        tenancy concern nobody in it, who is not to hear of them either (R13)."""
        if not self._denies:
            return []
        found = {id(rule) for text in permission.denied_by for rule in self._denies.get(text, ())}
        return [
            rule
            for rule in self.policy.deny
            if id(rule) in found and (rule.scope.everything or not rule.scope.intersect(tenancy).empty)
        ]

    def _entry(self, profile: Profile, key: Key, permission: Permission) -> Entry:
        denies = tuple(self.denies(permission, profile.tenancy))
        covering = [(held, number) for held in profile.held if (number := held.grants.number(permission)) is not None]
        conditions = [each for held, _ in covering for each in held.conditions]
        conditions += [rule.condition for rule in denies if rule.condition is not None]
        until = 0.0 if any(each.volatile for each in conditions) else profile.until
        candidates = tuple(_candidate(profile, permission, held, number, until) for held, number in covering)
        memo: dict[str, Decision] | None = None if conditions or profile.principal.tools else {}
        if len(profile.entries) >= MAX_ENTRIES:
            profile.entries.clear()
        entry = profile.entries[key] = Entry(permission, denies, candidates, memo)
        return entry


def _candidate(profile: Profile, permission: Permission, held: Held, number: int, until: float) -> Candidate:
    role = held.grants.name
    rule = f"{held.prefix}role:{role}#{number}" if role else f"direct#{number}"
    bounds = [held.scope, profile.principal.namespaces]
    if not (permission.kind.per_tenant and not profile.tenancy.empty):
        bounds.append(profile.tenancy)
    return Candidate(
        held, Allowed(permission.text, rule, role, until), tuple(each for each in bounds if each != EVERYWHERE)
    )


def _decide(profile: Profile, entry: Entry, action: Action, at: Circumstances) -> Decision:
    permission, principal = entry.permission, profile.principal
    if principal.actors and permission.in_person:
        return Denied(Reason.DELEGATED, f"{_what(permission, action)} is not allowed: {IN_PERSON}.")
    values: dict[str, Any] = {}

    def answer(condition: Any) -> bool | None:
        if not values:
            values.update(condition_values(principal, action, at))
        return condition.holds(values)  # type: ignore[no-any-return]

    for rule in entry.denies:
        if reaches(rule, permission, action.namespace) and (
            rule.condition is None or answer(rule.condition) is not False
        ):
            return _denied_by(rule, permission, action)
    usable = _may_use(principal, action.tool)
    conditional = ""
    for candidate in entry.candidates:
        if usable and covers(candidate.bounds, permission, action.namespace):
            if all(answer(condition) is True for condition in candidate.held.conditions):
                return candidate.allowed
            conditional = conditional or candidate.allowed.rule_id
    return _deny(profile, entry, action, conditional)


def reaches(rule: DenyRule, permission: Permission, namespace: str) -> bool:
    """Whether a deny rule concerns a place. What spans all namespaces reaches into each of them."""
    if rule.scope.everything:
        return True
    return rule.scope.covers_namespace(namespace) if namespace else permission.kind.namespaced


def covers(bounds: Sequence[Scope], permission: Permission, namespace: str) -> bool:
    """Whether every bound covers a place. To list namespaces, a share is enough: one that all have in common."""
    if namespace:
        return all(bound.covers_namespace(namespace) for bound in bounds)
    if not bounds:
        return True
    if not permission.lists_namespaces:
        return all(bound.everything for bound in bounds)
    shared = EVERYWHERE
    for bound in bounds:
        shared = shared.intersect(bound)
    return not shared.empty


def _may_use(principal: Principal, tool: str) -> bool:
    return not principal.tools or tool in principal.tools


def _denied_by(rule: DenyRule, permission: Permission, action: Action) -> Denied:
    why = f"the rule {rule.name!r} denies it" + (f" ({rule.description})" if rule.description else "")
    explanation = f"{_what(permission, action)} is not allowed: {why}."
    return Denied(Reason.DENY_RULE, explanation, deny_rule=rule.name)


def _deny(profile: Profile, entry: Entry, action: Action, conditional: str) -> Denied:
    permission, principal = entry.permission, profile.principal
    what = _what(permission, action)
    if profile.tenancy.empty:
        whose = f"tenant {principal.tenant} owns no namespaces" if principal.tenant else "the caller is of no tenant"
        return Denied(Reason.TENANT, f"{what} is not allowed: {whose}.")
    usable = _may_use(principal, action.tool)
    elsewhere, unusable, capped, foreign = NOWHERE, False, False, False
    for candidate in entry.candidates:
        granted = candidate.held.scope
        if not covers((granted,), permission, action.namespace):
            elsewhere = elsewhere.union(granted.intersect(profile.tenancy))
        elif not usable:
            unusable = True
        elif not covers((granted, principal.namespaces), permission, action.namespace):
            capped = True
        else:
            foreign = foreign or not covers(candidate.bounds, permission, action.namespace)
    reason, why = Reason.NO_GRANT, "no role or permission of this credential grants it"
    if conditional:
        reason, why = Reason.CONDITION, f"the condition of {conditional} does not hold"
    elif foreign:
        place = "this namespace is not of the caller's tenant" if action.namespace else "tenants stay in namespaces"
        return Denied(Reason.TENANT, f"{what} is not allowed: {place}.")
    elif unusable:
        reason, why = Reason.CREDENTIAL_CAP, "this credential may not use this tool"
    elif capped:
        reason, why = Reason.CREDENTIAL_CAP, f"this credential is limited to {where(principal.namespaces)}"
    elif not elsewhere.empty:
        why = f"it is granted only in {where(elsewhere)}"
    return Denied(reason, f"{what} is not allowed: {why}.", permission.text, action.namespace)


def _what(permission: Permission, action: Action) -> str:
    return f"{permission.text} {f'in namespace {action.namespace}' if action.namespace else 'outside namespaces'}"


def where(scope: Scope) -> str:
    """A scope in words."""
    if scope == EVERYWHERE:
        return "every namespace"
    patterns = scope.patterns()
    more = f" and {len(patterns) - _SHOWN} more" if len(patterns) > _SHOWN else ""
    return ", ".join(patterns[:_SHOWN]) + more if patterns else "no namespace"
