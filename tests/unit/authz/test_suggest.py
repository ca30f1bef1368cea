"""Which further role would let somebody do something (I6.21)."""

import pytest

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE, Scope
from services.authz.policy.suggest import Suggestion, suggest
from tests.unit.authz.test_policy_language import AT

POLICY = """
roles:
  - {name: viewer, permissions: ["k8s:pods:list"], namespaces: ["dev-*"]}
  - {name: operator, permissions: ["k8s:pods:list", "k8s:pods:delete"]}
  - {name: admin, permissions: ["k8s:*"]}
  - {name: heir, inherits: [operator]}
deny:
  - {name: frozen, permissions: ["k8s:pods:delete"], namespaces: [frozen]}
"""
ROLES = ("admin", "heir", "operator", "unknown", "viewer", "viewer")


def asked(principal: Principal, *actions: Action, roles: tuple[str, ...] = ROLES) -> list[Suggestion]:
    return suggest(Engine(parse_policy(POLICY.encode())), principal, actions, roles, AT)


def pods(verb: str, namespace: str = "dev-a") -> Action:
    return Action("", "pods", verb, namespace=namespace)


def holder(*roles: str, **more: object) -> Principal:
    return Principal("https://one.example", "alice", roles, **{"namespaces": EVERYWHERE, **more})  # type: ignore[arg-type]


@pytest.mark.req("I6.21")
def test_roles_that_suffice_come_with_the_one_that_grants_least_first() -> None:
    listing, deleting, elsewhere, spanning = asked(
        holder(), pods("list"), pods("delete"), pods("list", "prod"), pods("list", "")
    )
    assert listing == Suggestion(False, ("viewer", "heir", "operator", "admin"))
    assert deleting == Suggestion(False, ("heir", "operator", "admin"))
    assert elsewhere == Suggestion(False, ("heir", "operator", "admin"))
    assert spanning == listing, "what spans namespaces acts where the grants are"


@pytest.mark.req("I6.21")
def test_what_is_allowed_needs_nothing_and_what_nothing_allows_gets_nothing() -> None:
    assert asked(holder("viewer"), pods("list")) == [Suggestion(True)]
    assert asked(holder(), pods("delete", "frozen")) == [Suggestion(False)], "a deny rule stands above every role"
    assert asked(holder(), Action("", "pods", "exec", namespace="dev-a")) == [Suggestion(False)]
    assert asked(holder(namespaces=Scope.of(["dev-*"])), pods("list", "prod")) == [Suggestion(False)]
    assert asked(holder(), pods("delete"), roles=("viewer",)) == [Suggestion(False)]
    assert asked(holder(), pods("delete"), roles=()) == [Suggestion(False)]


def test_what_if_leaves_no_trace_in_the_engine_that_decides() -> None:
    engine = Engine(parse_policy(POLICY.encode()))
    engine.decide(holder(), pods("list"), AT)
    before = dict(engine._made)
    suggest(engine, holder(), [pods("list")], ROLES, AT)
    assert engine._made == before
