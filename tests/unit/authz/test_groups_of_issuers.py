"""A group is its issuer's word: a binding may say whose word it takes (R1)."""

import pytest

from services.authz.policy.diff import diff
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Circumstances, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE

AT = Circumstances(1.7e9)
OURS, PARTNER = "https://idp.example", "https://partner.example"
POLICY = """
roles: [{name: sre, permissions: ["k8s:pods:list"]}]
bindings: [{role: sre, group: sre, issuer: "https://idp.example"}]
"""
TENANTS = """
tenants: [{name: acme, namespaces: ["acme-*"]}]
cross_tenant: [{group: platform, issuer: "https://idp.example"}]
"""
LIST = Action("", "pods", "list", namespace="acme-web")


def member(issuer: str, *groups: str) -> Principal:
    return Principal(issuer, "x", namespaces=EVERYWHERE, groups=groups)


def allows(policy: str, principal: Principal) -> bool:
    return isinstance(Engine(parse_policy(policy.encode())).decide(principal, LIST, AT), Allowed)


@pytest.mark.req("R1", "R3", "I5.1")
def test_a_group_of_another_issuer_is_another_group_where_the_policy_names_one() -> None:
    assert allows(POLICY, member(OURS, "sre"))
    assert not allows(POLICY, member(PARTNER, "sre"))
    assert allows(POLICY.replace(f', issuer: "{OURS}"', ""), member(PARTNER, "sre")), "left out: any trusted issuer's"


@pytest.mark.req("R1", "R13")
def test_nor_does_it_cross_tenants() -> None:
    assert allows(POLICY + TENANTS, member(OURS, "sre", "platform"))
    both = POLICY.replace(f', issuer: "{OURS}"', "") + TENANTS
    assert not allows(both, member(PARTNER, "sre", "platform"))


@pytest.mark.req("R1", "I5.3")
def test_the_difference_names_the_issuer() -> None:
    before = parse_policy(POLICY.encode())
    after = parse_policy(POLICY.replace(OURS, PARTNER).encode())
    changes = {(change.who, bool(change.after.scope.everything)) for change in diff(before, after)}
    assert changes == {(f"group sre of {OURS}", False), (f"group sre of {PARTNER}", True)}
