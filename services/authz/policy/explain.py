"""Why a decision is as it is: every rule considered, in the order in which it is, and what became of it."""

from dataclasses import dataclass

from services.authz.policy.engine import IN_PERSON, Engine, covers, reaches, where
from services.authz.policy.model import Action, Allowed, Circumstances, Decision, Principal
from services.authz.policy.permissions import PERMISSIONS, Permission
from services.authz.policy.profile import Held, Profile, condition_values
from services.authz.policy.scope import EVERYWHERE


@dataclass(frozen=True, slots=True)
class Step:
    """One rule and one sentence about it. ``decides``: the decision rests on this rule."""

    rule_id: str
    said: str
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with what led to it. It allows nothing: only a recorded decision does."""

    decision: Decision
    steps: tuple[Step, ...]


def explain(engine: Engine, principal: Principal, action: Action, at: Circumstances) -> Explanation:
    """Decides, and says of each rule that concerns the principal why it decided or did not."""
    decision = engine.decide(principal, action, at)
    permission = PERMISSIONS.get((action.group, action.resource, action.subresource, action.verb))
    if permission is None:
        return Explanation(decision, (Step(decision.rule_id, "no permission covers this action", decides=True),))
    profile = engine.profile(principal, at.now)
    values = condition_values(principal, action, at)
    steps: list[Step] = []
    for rule in engine.denies(permission, profile.tenancy):
        rule_id = f"deny:{rule.name}"
        if not reaches(rule, permission, action.namespace):
            steps.append(Step(rule_id, f"denies only in {where(rule.scope.intersect(profile.tenancy))}"))
            continue
        answer = rule.condition.holds(values) if rule.condition is not None else True
        steps.append(Step(rule_id, _DENY_RULE_SAID[answer], decides=decision.rule_id == rule_id))
    for name in dict.fromkeys(principal.roles):
        if name not in principal.kept_roles:
            steps.append(Step(f"role:{name}", "left out of the scope that the token was exchanged for"))
        elif name not in engine.profiles.roles:
            steps.append(Step(f"role:{name}", "the policy has no such role"))
    for binding in engine.profiles.bindings(principal):
        if at.now >= binding.expires:
            steps.append(Step(f"role:{binding.role}", f"bound to {binding.who} (line {binding.line}), expired"))
    for held in profile.held:
        number = held.grants.number(permission)
        rule_id = _rule_id(held, number)
        said = _about(profile, held, permission, action, values) if number is not None else "does not grant it"
        steps.append(Step(rule_id, f"{held.via}: {said}", decides=_decides(decision, rule_id, said)))
    if not any(step.decides for step in steps):
        steps.append(Step(decision.rule_id, decision.explanation if not isinstance(decision, Allowed) else "", True))
    return Explanation(decision, _only_first(steps))


_ALLOWS = "allows"
_DENY_RULE_SAID = {True: "denies", False: "its condition does not hold", None: "denies: its condition has no answer"}


def _decides(decision: Decision, rule_id: str, said: str) -> bool:
    return isinstance(decision, Allowed) and decision.rule_id == rule_id and said == _ALLOWS


def _only_first(steps: list[Step]) -> tuple[Step, ...]:
    """The same role may be held twice; the first that allows is the one that decided."""
    seen = False
    result = []
    for step in steps:
        if step.decides and seen:
            step = Step(step.rule_id, step.said)
        seen = seen or step.decides
        result.append(step)
    return tuple(result)


def _rule_id(held: Held, number: int | None) -> str:
    suffix = f"#{number}" if number is not None else ""
    return f"{held.prefix}role:{held.grants.name}{suffix}" if held.grants.name else f"direct{suffix}"


def _about(profile: Profile, held: Held, permission: Permission, action: Action, values: dict[str, object]) -> str:
    principal = profile.principal
    if principal.actors and permission.in_person:
        return IN_PERSON
    if not covers((held.scope,), permission, action.namespace):
        return f"grants it only in {where(held.scope.intersect(profile.tenancy))}"
    if not covers((held.scope, principal.namespaces), permission, action.namespace):
        return f"the credential is limited to {where(principal.namespaces)}"
    if principal.tools and action.tool not in principal.tools:
        return "the credential may not use this tool"
    tenancy = EVERYWHERE if permission.kind.per_tenant and not profile.tenancy.empty else profile.tenancy
    if not covers((held.scope, principal.namespaces, tenancy), permission, action.namespace):
        return "not within the caller's tenant"
    for condition in held.conditions:
        answer = condition.holds(values)
        if answer is not True:
            return f"its condition {'has no answer' if answer is None else 'does not hold'}: {condition.text}"
    return _ALLOWS
