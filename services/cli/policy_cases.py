"""Policy cases: what a policy should decide, as YAML, run without a stack (`kubegate policy test`).

```yaml
cases:
  - name: "viewers do not delete"
    principal: {subject: alice, roles: [viewer]}
    action: {permission: "k8s:pods:delete", namespace: default}
    expect: deny            # or allow
    rule: "denied:no_grant" # optional: the rule that decides
```
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pydantic

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Circumstances, Decision, Principal
from services.authz.policy.permissions import PERMISSIONS, key_of
from services.authz.policy.scope import EVERYWHERE, InvalidPattern, Scope


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Who(_Strict):
    """The principal of a case. No ``namespaces``: no cap."""

    issuer: str = "kubegate"
    subject: str = "somebody"
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    namespaces: tuple[str, ...] | None = None
    tools: tuple[str, ...] = ()
    tenant: str = ""
    groups: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    auth_type: str = ""
    auth_time: float | None = None
    narrowed_to: tuple[str, ...] = ()
    actors: tuple[tuple[str, str], ...] = ()

    def principal(self) -> Principal:
        """The principal.

        Raises:
            InvalidPattern: a namespace is malformed.
        """
        scope = EVERYWHERE if self.namespaces is None else Scope.of(self.namespaces)
        return Principal(
            self.issuer,
            self.subject,
            self.roles,
            self.permissions,
            scope,
            frozenset(self.tools),
            auth_type=self.auth_type,
            tenant=self.tenant,
            groups=self.groups,
            amr=self.amr,
            auth_time=self.auth_time,
            narrowed_to=frozenset(self.narrowed_to),
            actors=self.actors,
        )


class What(_Strict):
    """The action of a case, by the permission that it needs."""

    permission: str
    namespace: str = ""
    name: str = ""
    cluster: str = ""
    tool: str = ""
    replicas: int | None = None

    @pydantic.field_validator("permission")
    @classmethod
    def _known(cls, text: str) -> str:
        if key_of(text) is None:
            raise ValueError(f"{text!r} is not the permission of an action, such as k8s:pods:list")
        return text

    def action(self) -> Action:
        """The resolved action."""
        group, resource, subresource, verb = key_of(self.permission) or _NOTHING
        return Action(
            group, resource, verb, subresource, self.namespace, self.name, self.cluster, self.tool, self.replicas
        )


_NOTHING = ("", "", "", "")
"""Is granted by nobody; a permission that was validated is never resolved to it."""


class Case(_Strict):
    """One expectation. ``time`` and ``source``: as conditions read them."""

    name: str
    principal: Who
    action: What
    expect: Literal["allow", "deny"]
    rule: str = ""
    time: datetime | None = None
    source: str | None = None


class Cases(_Strict):
    """A file of cases."""

    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a case came to. ``fault`` is empty where it passed."""

    case: Case
    decision: Decision
    fault: str


def read_cases(data: Any) -> Cases:
    """The cases in a parsed file.

    Raises:
        ValueError: it is malformed; one line for each problem.
    """
    try:
        cases = Cases.model_validate(data)
        for case in cases.cases:
            case.principal.principal()
    except pydantic.ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise ValueError("\n".join(lines)) from None
    except InvalidPattern as error:
        raise ValueError(str(error)) from None
    return cases


def run_case(engine: Engine, case: Case) -> Verdict:
    """Decides one case."""
    moment = case.time if case.time is None or case.time.tzinfo else case.time.replace(tzinfo=UTC)
    at = Circumstances(moment.timestamp() if moment is not None else datetime.now(UTC).timestamp(), case.source)
    decision = engine.decide(case.principal.principal(), case.action.action(), at)
    got = "allow" if isinstance(decision, Allowed) else "deny"
    fault = ""
    if got != case.expect:
        fault = f"expected {case.expect}, got {got} by {decision.rule_id}"
    elif case.rule and case.rule != decision.rule_id:
        fault = f"expected the rule {case.rule}, got {decision.rule_id}"
    return Verdict(case, decision, fault)


def uncovered(engine: Engine, verdicts: list[Verdict]) -> list[str]:
    """The rules of a policy on which no case rests: grants and deny rules."""
    seen = {verdict.decision.rule_id for verdict in verdicts}
    rules = [f"role:{role.name}#{n}" for role in engine.policy.roles for n in range(1, len(role.permissions) + 1)]
    rules += [f"deny:{rule.name}" for rule in engine.policy.deny]
    return [rule for rule in rules if rule not in seen]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recorded decision, decided again. ``after`` is None where the record does not say enough."""

    event_id: str
    user: str
    permission: str
    namespace: str
    before: str
    after: Decision | None

    @property
    def changes(self) -> bool:
        """Whether what was allowed would be denied, or the other way round."""
        return self.after is not None and self.before.startswith("denied:") | self.before.startswith("deny:") == (
            isinstance(self.after, Allowed)
        )


def replay(engine: Engine, event: Mapping[str, Any], principals: dict[str, Principal]) -> list[Replayed]:
    """Decides again what one authorization event records. ``principals`` remembers those that were read.

    Elevations are of no policy: what rested on one cannot be told.
    """
    metadata = event.get("metadata") or {}
    text = metadata.get("principal", "")
    at = Circumstances(
        datetime.fromisoformat(event["timestamp"]).timestamp(), (event.get("source") or {}).get("address")
    )
    principal: Principal | None = None
    if text:
        if text not in principals:
            principals[text] = Who.model_validate_json(text).principal()
        principal = principals[text]
    found = []
    for rule, action in _actions(event, metadata):
        told = principal is not None and not rule.startswith("elevation:")
        after = engine.decide(principal, action, at) if principal is not None and told else None
        key = (action.group, action.resource, action.subresource, action.verb)
        needed = PERMISSIONS.get(key)
        permission = needed.text if needed is not None else f"{action.resource}:{action.verb}"
        found.append(Replayed(event["event_id"], event.get("user", ""), permission, action.namespace, rule, after))
    return found


def _actions(event: Mapping[str, Any], metadata: Mapping[str, str]) -> list[tuple[str, Action]]:
    decision = event.get("decision") or {}
    if decision.get("rule") == "batch":
        parts = sorted(
            ((int(key.partition(".")[2]), text) for key, text in metadata.items() if key.startswith("decisions."))
        )
        lines = [line.split("\t") for _, text in parts for line in text.split("\n")]
        return [
            (
                rule,
                Action(group, resource, verb, sub, namespace, name, cluster, "", int(replicas) if replicas else None),
            )
            for rule, verb, group, resource, sub, namespace, name, replicas, cluster in lines
        ]
    if not decision.get("rule"):
        return []
    kind, _, rest = event.get("resource", "").partition("/")
    group, subresource = metadata.get("group", ""), metadata.get("subresource", "")
    resource = kind.removesuffix(f".{group}") if group else kind
    name = rest.removesuffix(subresource).removesuffix("/") if subresource else rest
    replicas = metadata.get("replicas", "")
    action = Action(
        group,
        resource,
        metadata.get("verb", ""),
        subresource,
        event.get("namespace", ""),
        name,
        metadata.get("cluster", ""),
        # As the tool is not told from an action without one, a credential's cap on tools may decide otherwise.
        event.get("action", ""),
        int(replicas) if replicas else None,
    )
    return [(decision["rule"], action)]
