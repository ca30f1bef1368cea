"""What somebody may pass on: nobody grants beyond what he holds (R17).

What he holds by elevation is lent and does not count. What he holds under conditions counts only for a grant under
the same ones. Deny rules hold for whoever receives it, so they count nowhere.
"""

from collections.abc import Iterable
from dataclasses import replace

from services.authz.policy.engine import Engine
from services.authz.policy.model import UNKNOWN, Principal
from services.authz.policy.permissions import PERMISSIONS, custom_permissions
from services.authz.policy.profile import NO_GRANTS, Held
from services.authz.policy.scope import NOWHERE, Scope


def missing_for_role(engine: Engine, principal: Principal, role: str, scope: Scope, until: float) -> str:
    """The first permission of a role that a principal does not itself hold in all of a scope and until then; empty
    where it holds them all."""
    # What is lent must be held without conditions.
    held = engine.profiles.closure(role, (), Held(NO_GRANTS, scope, (), "", ""))
    return _missing(engine, principal, [replace(each, conditions=()) for each in held], until)


def missing_for_credential(engine: Engine, principal: Principal, grantee: Principal, now: float) -> str:
    """The first permission that a principal would hold by a credential and ``principal`` does not itself hold for as
    long as the credential lasts; empty where there is none. Whatever the policy gives to whom the credential stands
    for counts, elevations included."""
    # As if there were no tenants: what a tenant owns may change, and who may make credentials is of none.
    held = [replace(each, scope=each.scope.intersect(grantee.namespaces)) for each in engine.profile(grantee, now).held]
    return _missing(engine, principal, held, min(grantee.expires, UNKNOWN.now))


def _missing(engine: Engine, principal: Principal, granted: Iterable[Held], until: float) -> str:
    profile = engine.profiles.make(principal, (), until - 1e-3)
    for each in granted:
        if each.scope.empty:
            continue
        for permission in (*PERMISSIONS.values(), *custom_permissions(each.grants.numbers)):
            if each.grants.number(permission) is None:
                continue
            own = NOWHERE
            for held in profile.held:
                if held.grants.number(permission) is not None and set(held.conditions) <= set(each.conditions):
                    own = own.union(held.scope)
            if not own.intersect(principal.namespaces).intersect(profile.tenancy).contains(each.scope):
                return permission.text
    return ""
