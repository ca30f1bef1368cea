"""Which further role would let somebody do something: what a client may ask its authorization server a scope for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Circumstances, Principal
from services.authz.policy.permissions import PERMISSIONS


@dataclass(frozen=True, slots=True)
class Suggestion:
    """For one action. ``allowed``: as it is. ``roles``: each would suffice; the one that grants least first."""

    allowed: bool
    roles: tuple[str, ...] = ()


def suggest(
    engine: Engine, principal: Principal, actions: Sequence[Action], roles: Sequence[str], at: Circumstances
) -> list[Suggestion]:
    """What would allow each action, deny rules, caps and tenants included. It allows nothing itself."""
    engine = engine.apart()
    known = [role for role in dict.fromkeys(roles) if role in engine.profiles.roles]
    wider = {role: replace(principal, roles=(*principal.roles, role)) for role in known}
    width = {role: _width(engine, replace(principal, roles=(role,), permissions=()), at) for role in known}
    ordered = sorted(known, key=lambda role: (width[role], role))
    found = []
    for action in actions:
        if _may(engine, principal, action, at):
            found.append(Suggestion(True))
        else:
            found.append(Suggestion(False, tuple(role for role in ordered if _may(engine, wider[role], action, at))))
    return found


def _may(engine: Engine, principal: Principal, action: Action, at: Circumstances) -> bool:
    if isinstance(engine.decide(principal, action, at), Allowed):
        return True
    # What spans namespaces acts in those that the caller's grants name.
    return not action.namespace and not engine.allowed_scope(principal, action, at).empty


def _width(engine: Engine, holder: Principal, at: Circumstances) -> tuple[int, bool]:
    """How much a role grants: so many permissions, and whether anywhere in all namespaces."""
    held = engine.profile(holder, at.now).held
    every = PERMISSIONS.values()
    granted = sum(any(each.grants.number(permission) is not None for each in held) for permission in every)
    return granted, any(each.scope.everything for each in held)
