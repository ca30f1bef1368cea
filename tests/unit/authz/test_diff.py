"""A difference of policies shows every widening, also what ends by itself and what tenants own."""

import pytest

from services.authz.policy.diff import diff
from services.authz.policy.model import Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE

ROLES = """
roles:
  - {name: viewer, permissions: ["k8s:pods:list"], namespaces: ["acme-*"]}
  - {name: admin, permissions: ["k8s:*"]}
"""
TENANTS = """
tenants: [{name: acme, namespaces: ["acme-*"]}]
"""


def changed(before: str, after: str, *principals: Principal) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    found = diff(parse_policy(before.encode()), parse_policy(after.encode()), principals)
    return {
        (each.who, each.permission): (
            ["*"] if each.before.scope.everything else each.before.scope.patterns(),
            ["*"] if each.after.scope.everything else each.after.scope.patterns(),
        )
        for each in found
    }


@pytest.mark.req("I5.3", "I5.7")
def test_a_binding_that_ends_is_shown_as_long_as_it_is_written() -> None:
    bound = ROLES + "bindings: [{role: admin, subject: eve, expires: 2099-01-01T00:00:00Z}]\n"
    assert changed(ROLES, bound)["subject kubegate:eve", "k8s:secrets:manage"] == ([], ["*"])


@pytest.mark.req("I5.3", "R13")
def test_with_tenants_a_wider_role_is_shown_all_the_same() -> None:
    wider = ROLES.replace('["k8s:pods:list"]', '["k8s:pods:list", "k8s:secrets:manage"]')
    assert changed(ROLES + TENANTS, wider + TENANTS) == {("role viewer", "k8s:secrets:manage"): ([], ["acme-*"])}


@pytest.mark.req("I5.3", "R13")
def test_what_a_tenant_owns_and_who_crosses_tenants_is_shown() -> None:
    more = TENANTS.replace('["acme-*"]', '["acme-*", globex]')
    assert changed(ROLES + TENANTS, ROLES + more) == {("tenant acme", "(owns)"): (["acme-*"], ["acme-*", "globex"])}
    crossing = TENANTS + "cross_tenant: [{subject: eve}]\n"
    assert changed(ROLES + TENANTS, ROLES + crossing) == {("subject kubegate:eve", "(every tenant)"): ([], ["*"])}
    ours = Principal("kubegate", "ann", ("admin",), namespaces=EVERYWHERE, tenant="acme")
    gone = changed(ROLES + TENANTS, ROLES, ours)
    assert gone["tenant acme", "(owns)"] == (["acme-*"], [])
    assert gone["whoever is of no tenant", "(every tenant)"] == ([], ["*"])
    assert gone["subject kubegate:ann", "k8s:pods:list"] == (["acme-*"], ["*"])
