"""Who gains or loses what between two policies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.authz.policy.engine import Engine
from services.authz.policy.model import UNKNOWN, Action, Policy, Principal, Who
from services.authz.policy.permissions import PERMISSIONS, Permission, custom_permissions
from services.authz.policy.scope import EVERYWHERE, Scope


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
    """What changes for every role, for everybody that either policy binds, and for the given principals.

    Bindings that end count as long as they are written. Elevations are of no policy and count nowhere.
    """
    before, after = Engine(old), Engine(new)
    custom = _named_custom(old, new, principals)
    for who, principal in _everybody(old, new, principals):
        for permission in (*PERMISSIONS.values(), *custom):
            action = Action(permission.kind.group, permission.kind.resource, permission.verb, permission.subresource)
            one = _holding(before, principal, action, permission)
            other = _holding(after, principal, action, permission)
            if one != other:
                yield Change(who, permission.text, one, other)


def _named_custom(old: Policy, new: Policy, principals: Sequence[Principal]) -> tuple[Permission, ...]:
    """The permissions for the custom kinds that either policy, or a credential, names."""
    texts = {text for each in principals for text in each.permissions}
    for policy in (old, new):
        texts.update(text for role in policy.roles for text in role.permissions)
        texts.update(text for rule in policy.deny for text in rule.permissions)
    return tuple(each for each in custom_permissions(texts) if each.kind.group)


def _everybody(old: Policy, new: Policy, principals: Sequence[Principal]) -> Iterator[tuple[str, Principal]]:
    for name in dict.fromkeys(role.name for policy in (old, new) for role in policy.roles):
        yield f"role {name}", Principal("", "", (name,), namespaces=EVERYWHERE)
    for who in dict.fromkeys(binding.who for policy in (old, new) for binding in policy.bindings):
        yield str(who), _somebody(who)
    for principal in principals:
        yield f"subject {principal.issuer}:{principal.subject}", principal


def _somebody(who: Who) -> Principal:
    groups = (who.group,) if who.group else ()
    return Principal(who.issuer, who.subject, namespaces=EVERYWHERE, groups=groups, tenant=who.tenant)


def _holding(engine: Engine, principal: Principal, action: Action, permission: Permission) -> Holding:
    profile = engine.profiles.make(principal, (), 0.0)
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
    scope = engine.allowed_scope(principal, action, UNKNOWN)
    excluding = engine.denied_scope(action) if not scope.empty else scope
    return Holding(scope, excluding, tuple(sorted(conditions)) if not scope.empty else ())
