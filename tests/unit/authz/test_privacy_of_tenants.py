"""What a tenant's principal is told names no other tenant's namespaces and rules (R13)."""

from typing import Any

import pytest

from services.authz.policy.engine import Engine
from services.authz.policy.explain import explain
from services.authz.policy.model import Action, Allowed, Circumstances, Denied, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE
from services.authz.ports import Caller, Verified
from services.authz.service import AuthzService
from services.common.deadline import Deadline
from tests.fakes.clock import FakeClock

AT = Circumstances(1.7e9)
POLICY = b"""
roles:
  - {name: ops, permissions: ["k8s:pods:*"], namespaces: ["acme-*", "globex-payments"]}
  - {name: admin, permissions: ["k8s:*"]}
deny:
  - {name: globex-freeze, description: merger, permissions: ["k8s:pods:list"], namespaces: ["globex-*"]}
  - {name: quiet, permissions: ["k8s:pods:*"], namespaces: ["acme-vault", "globex-vault"]}
tenants:
  - {name: acme, namespaces: ["acme-*"]}
  - {name: globex, namespaces: ["globex-*"]}
cross_tenant: [{subject: root}]
"""
ENGINE = Engine(parse_policy(POLICY))


def of_acme(*roles: str) -> Principal:
    return Principal("kubegate", "ann", roles, namespaces=EVERYWHERE, tenant="acme")


def pods(namespace: str = "", verb: str = "list") -> Action:
    return Action("", "pods", verb, namespace=namespace)


class Service:
    """The service about one principal; nothing of it is recorded."""

    def __init__(self, principal: Principal) -> None:
        in_force: Any = self
        tokens: Any = self
        self.engine, self.revision, self.lease_revision = ENGINE, "r", 1
        self._verified = Verified(principal, "service/mcp-core", 2e9)
        self.service = AuthzService(in_force, tokens, tokens, FakeClock())

    async def verify(self, token: str) -> Verified:
        return self._verified


@pytest.mark.req("R13", "I5.3")
@pytest.mark.parametrize("role", ["ops", "admin"])
async def test_list_allowed_excludes_nothing_that_belongs_to_somebody_else(role: str) -> None:
    caller = Caller("service/mcp-core", Deadline.after(5))
    [allowance] = (await Service(of_acme(role)).service.list_allowed(caller, "token", [pods()])).each
    assert allowance.scope.patterns() == ["acme-*"]
    assert allowance.excluding.patterns() == ["acme-vault"]
    root = Principal("kubegate", "root", (role,), namespaces=EVERYWHERE)
    [allowance] = (await Service(root).service.list_allowed(caller, "token", [pods()])).each
    assert "globex-vault" in allowance.excluding.patterns() or role == "ops"


@pytest.mark.req("R13", "I5.3")
@pytest.mark.parametrize(
    "action", [pods("nowhere"), pods("globex-web"), pods(), pods("acme-vault"), pods("shop", "get")]
)
def test_neither_a_denial_nor_its_explanation_names_somebody_elses_namespaces(action: Action) -> None:
    for role in ("ops", "admin"):
        found = explain(ENGINE, of_acme(role), action, AT)
        decision = found.decision
        assert isinstance(decision, Denied)
        said = " ".join(
            [decision.explanation, decision.rule_id, *(f"{step.rule_id} {step.said}" for step in found.steps)]
        )
        assert "globex" not in said.replace("globex-web", ""), said
        assert "merger" not in said


@pytest.mark.req("R13", "I5.11")
def test_rules_about_others_still_bind_whoever_crosses_tenants() -> None:
    root = Principal("kubegate", "root", ("admin",), namespaces=EVERYWHERE)
    denied = ENGINE.decide(root, pods("globex-web"), AT)
    assert isinstance(denied, Denied)
    assert denied.rule_id == "deny:globex-freeze"
    assert isinstance(ENGINE.decide(root, pods(), AT), Denied), "what spans all namespaces reaches into it"
    assert isinstance(ENGINE.decide(of_acme("ops"), pods("acme-web"), AT), Allowed)
