"""Who gains or loses what between two policies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Circumstances, Policy, Principal, Who
from services.authz.policy.permissions import PERMISSIONS, Permission, custom_permissions
from services.authz.policy.scope import EVERYWHERE, NOWHERE, Scope

BEGINNING = Circumstances(0.0)
"""Before anything ends: bindings that end count as long as they are written."""

OWNS, CROSSES = "(owns)", "(every tenant)"
"""What a tenant's namespaces, and reaching all of them, are called beside permissions."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Where something may be done, less what is denied, and the conditions that are attached to it."""

    scope: Scope
    excluding: Scope
    conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One permission of somebody, before and after."""

    who: str
    permission: str
    before: Holding
    after: Holding


def diff(old: Policy, new: Policy, principals: Sequence[Principal] = ()) -> Iterator[Change]:
    """What changes for every role, for everybody that either policy binds, for the given principals, and of
    tenants.

    Whose tenant is not known, such as a role's holders', is compared as if there were no tenants; these are
    compared by themselves. Elevations are of no policy and count nowhere.
    """
    whole = Engine(old), Engine(new)
    apart = Engine(_without_tenants(old)), Engine(_without_tenants(new))
    permissions = (*PERMISSIONS.values(), *_named_custom(old, new, principals))
    for who, principal, in_tenants in _everybody(old, new, principals):
        before, after = whole if in_tenants else apart
        for permission in permissions:
            action = Action(permission.kind.group, permission.kind.resource, permission.verb, permission.subresource)
            one = _holding(before, principal, action, permission)
            other = _holding(after, principal, action, permission)
            if one != other:
                yield Change(who, permission.text, one, other)
    yield from _tenants(old, new)


def _without_tenants(policy: Policy) -> Policy:
    return replace(policy, tenants=(), cross_tenant=())


def _tenants(old: Policy, new: Policy) -> Iterator[Change]:
    owned = [{tenant.name: tenant.scope for tenant in policy.tenants} for policy in (old, new)]
    for name in dict.fromkeys([*owned[0], *owned[1]]):
        yield from _moved(f"tenant {name}", OWNS, *(each.get(name, NOWHERE) for each in owned))
    for who in dict.fromkeys([*old.cross_tenant, *new.cross_tenant]):
        yield from _moved(
            str(who), CROSSES, *(EVERYWHERE if who in policy.cross_tenant else NOWHERE for policy in (old, new))
        )
    yield from _moved(
        "whoever is of no tenant", CROSSES, *(NOWHERE if policy.tenants else EVERYWHERE for policy in (old, new))
    )


def _moved(who: str, what: str, before: Scope, after: Scope) -> Iterator[Change]:
    if before != after:
        yield Change(who, what, Holding(before, NOWHERE, ()), Holding(after, NOWHERE, ()))


def _named_custom(old: Policy, new: Policy, principals: Sequence[Principal]) -> tuple[Permission, ...]:
    """The permissions for the custom kinds that either policy, or a credential, names."""
    texts = {text for each in principals for text in each.permissions}
    for policy in (old, new):
        texts.update(text for role in policy.roles for text in role.permissions)
        texts.update(text for rule in policy.deny for text in rule.permissions)
    return tuple(each for each in custom_permissions(texts) if each.kind.group)


def _everybody(old: Policy, new: Policy, principals: Sequence[Principal]) -> Iterator[tuple[str, Principal, bool]]:
    """Each with its name, and whether its tenant is known."""
    for name in dict.fromkeys(role.name for policy in (old, new) for role in policy.roles):
        yield f"role {name}", Principal("", "", (name,), namespaces=EVERYWHERE), False
    for who in dict.fromkeys(binding.who for policy in (old, new) for binding in policy.bindings):
        yield str(who), _somebody(who), bool(who.tenant)
    for principal in principals:
        yield f"subject {principal.issuer}:{principal.subject}", principal, True


def _somebody(who: Who) -> Principal:
    groups = (who.group,) if who.group else ()
    return Principal(who.issuer, who.subject, namespaces=EVERYWHERE, groups=groups, tenant=who.tenant)


def _holding(engine: Engine, principal: Principal, action: Action, permission: Permission) -> Holding:
    profile = engine.profile(principal, BEGINNING.now)
    conditions = {
        condition.text
        for held in profile.held
        if held.grants.number(permission) is not None
        for condition in held.conditions
    }
    conditions |= {
        f"denied by {rule.name} where {rule.condition.text}"
        for rule in engine.denies(permission)
        if rule.condition is not None
    }
    scope = engine.allowed_scope(principal, action, BEGINNING)
    excluding = engine.denied_scope(action) if not scope.empty else scope
    return Holding(scope, excluding, tuple(sorted(conditions)) if not scope.empty else ())
