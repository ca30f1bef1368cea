"""What a policy says about one principal: its grants in order, and where it may be at all.

A profile is worked out once for a principal and holds until the first thing in it ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from services.authz.policy.conditions import Condition
from services.authz.policy.model import (
    NEVER,
    Action,
    Allowed,
    Binding,
    Circumstances,
    Decision,
    DenyRule,
    Elevation,
    Policy,
    Principal,
    Who,
)
from services.authz.policy.permissions import Key, Permission
from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope


@dataclass(frozen=True, slots=True)
class RoleGrants:
    """The grants of one role, compiled: each text with its number."""

    name: str
    scope: Scope
    numbers: Mapping[str, int]
    inherits: tuple[str, ...]
    condition: Condition | None

    def number(self, permission: Permission) -> int | None:
        """The first grant that covers a permission, counted from 1."""
        found = [self.numbers[text] for text in permission.covered_by if text in self.numbers]
        return min(found, default=None)


NO_GRANTS = RoleGrants("", NOWHERE, {}, (), None)


@dataclass(frozen=True, slots=True)
class Held:
    """Grants that a principal holds, and how. ``via`` says in words how; ``prefix`` begins their rule ids."""

    grants: RoleGrants
    scope: Scope
    conditions: tuple[Condition, ...]
    prefix: str
    via: str
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A grant that covers a permission, wherever it holds. ``bounds``: every scope that must cover the place."""

    held: Held
    allowed: Allowed
    bounds: tuple[Scope, ...]


@dataclass(slots=True)
class Entry:
    """Everything about one permission and one principal. ``memo``: decisions by namespace, where nothing else
    matters; None where conditions or the tool matter too.
    """

    permission: Permission
    denies: tuple[DenyRule, ...]
    candidates: tuple[Candidate, ...]
    memo: dict[str, Decision] | None


@dataclass(slots=True)
class Profile:
    """One principal under one policy. ``tenancy``: where its tenant lets it be."""

    principal: Principal
    held: tuple[Held, ...]
    tenancy: Scope
    until: float
    entries: dict[Key, Entry] = field(default_factory=dict)


def compiled(
    name: str,
    permissions: Sequence[str],
    scope: Scope,
    inherits: Sequence[str] = (),
    condition: Condition | None = None,
) -> RoleGrants:
    """Grants as a dictionary."""
    numbers: dict[str, int] = {}
    for number, text in enumerate(permissions, start=1):
        numbers.setdefault(text, number)
    return RoleGrants(name, scope, numbers, tuple(inherits), condition)


class Profiles:
    """Makes profiles from one policy, compiled to dictionaries, and the elevations in force."""

    def __init__(self, policy: Policy) -> None:
        self.roles = {
            each.name: compiled(each.name, each.permissions, each.scope, each.inherits, each.condition)
            for each in policy.roles
        }
        self._bindings: dict[Who, list[Binding]] = {}
        for binding in policy.bindings:
            self._bindings.setdefault(binding.who, []).append(binding)
        self._tenants = {tenant.name: tenant.scope for tenant in policy.tenants}
        self._cross = frozenset(policy.cross_tenant)

    def make(self, principal: Principal, elevations: Sequence[Elevation], now: float) -> Profile:
        """The profile of a principal at a time."""
        held: list[Held] = []
        for name in principal.kept_roles:
            held += self.closure(name, (), Held(NO_GRANTS, EVERYWHERE, (), "", "role of the credential"))
        until = NEVER
        for binding in self.bindings(principal):
            if now >= binding.expires:
                continue
            until = min(until, binding.expires)
            conditions = (binding.condition,) if binding.condition is not None else ()
            via = f"bound to {binding.who} (line {binding.line})"
            held += self.closure(binding.role, conditions, Held(NO_GRANTS, EVERYWHERE, (), "", via))
        for elevation in () if principal.narrowed_to else elevations:
            if now >= elevation.expires or elevation.tenant != principal.tenant:
                continue
            until = min(until, elevation.expires)
            prefix, via = f"elevation:{elevation.id}:", f"elevation {elevation.id}"
            held += self.closure(elevation.role, (), Held(NO_GRANTS, elevation.scope, (), prefix, via, lasting=False))
        if principal.kept_permissions:
            own = compiled("", principal.kept_permissions, principal.namespaces)
            held.append(Held(own, own.scope, (), "", "permission of the credential"))
        return Profile(principal, tuple(held), self._tenancy(principal), until)

    def closure(self, name: str, conditions: tuple[Condition, ...], how: Held) -> Iterator[Held]:
        """A role and all that it inherits, nearest first. Those that the policy lacks give nothing."""
        seen = {name}
        queue = [name]
        while queue:
            role = self.roles.get(queue.pop())
            if role is None:
                continue
            own = (*conditions, role.condition) if role.condition is not None else conditions
            scope = role.scope if how.scope == EVERYWHERE else role.scope.intersect(how.scope)
            via = how.via if role.name == name else f"{how.via}, inherited by {name}"
            yield Held(role, scope, own, how.prefix, via, how.lasting)
            fresh = [each for each in role.inherits if each not in seen]
            seen.update(fresh)
            queue.extend(reversed(fresh))

    def bindings(self, principal: Principal) -> list[Binding]:
        """Bindings of a principal by person, group and tenant, in the order of the file."""
        if not self._bindings or principal.narrowed_to:
            return []
        found = list(self._bindings.get(Who(issuer=principal.issuer, subject=principal.subject), ()))
        for who in _groups(principal):
            found += self._bindings.get(who, ())
        if principal.tenant:
            found += self._bindings.get(Who(tenant=principal.tenant), ())
        return sorted(found, key=lambda binding: binding.line)

    def _tenancy(self, principal: Principal) -> Scope:
        """Without tenants, everywhere. A principal of a tenant is in its namespaces and nowhere else."""
        if not self._tenants:
            return EVERYWHERE
        if principal.tenant:
            return self._tenants.get(principal.tenant, NOWHERE)
        himself = Who(issuer=principal.issuer, subject=principal.subject)
        marked = himself in self._cross or any(who in self._cross for who in _groups(principal))
        return EVERYWHERE if marked else NOWHERE


def _groups(principal: Principal) -> Iterator[Who]:
    """A principal's groups as a policy may name them: of whatever issuer, or of the principal's (R1)."""
    for group in dict.fromkeys(principal.groups):
        if group:
            yield Who(group=group)
            yield Who(issuer=principal.issuer, group=group)


def condition_values(principal: Principal, action: Action, at: Circumstances) -> dict[str, Any]:
    """What a condition may read of one request; what is not known is left out, so that reading it fails."""
    values: dict[str, Any] = {
        "principal.issuer": principal.issuer,
        "principal.subject": principal.subject,
        "principal.tenant": principal.tenant,
        "principal.groups": list(principal.groups),
        "principal.roles": list(principal.roles),
        "principal.amr": list(principal.amr),
        "principal.auth_type": principal.auth_type,
        "action.cluster": action.cluster,
        "action.group": action.group,
        "action.resource": action.resource,
        "action.subresource": action.subresource,
        "action.verb": action.verb,
        "action.namespace": action.namespace,
        "action.name": action.name,
    }
    if action.replicas is not None:
        values["action.replicas"] = action.replicas
    if principal.auth_time is not None:
        values["principal.auth_time"] = datetime.fromtimestamp(principal.auth_time, UTC)
    if at.now < _END_OF_TIME:
        values["request.time"] = datetime.fromtimestamp(at.now, UTC)
    if at.source is not None:
        values["request.source"] = at.source
    return values


_END_OF_TIME = 253_402_300_800.0
"""1 January 10000, the end of what a datetime can say."""
