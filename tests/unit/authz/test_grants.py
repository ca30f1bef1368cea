"""Nobody makes a credential that may more than he (R17), whichever way the policy gives it."""

from dataclasses import replace

import pytest

from services.authz.policy.engine import Engine
from services.authz.policy.grants import missing_for_credential
from services.authz.policy.model import NEVER, Elevation, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE, Scope

NOW = 1.7e9
POLICY = b"""
roles:
  - {name: desk, permissions: ["kubegate:keys:*", "k8s:pods:*"], namespaces: [dev]}
  - {name: keys, permissions: ["kubegate:keys:*"]}
  - {name: viewer, permissions: ["k8s:pods:list"], namespaces: [dev]}
  - {name: admin, inherits: [viewer], permissions: ["k8s:*"]}
  - {name: careful, permissions: ["k8s:nodes:list"], condition: "'mfa' in principal.amr"}
bindings:
  - {role: admin, subject: boss}
  - {role: admin, group: sre, issuer: "https://idp.example"}
  - {role: viewer, subject: desk, expires: 2024-01-01T00:00:00Z}
"""
ENGINE = Engine(parse_policy(POLICY))
DESK = Principal("kubegate", "desk", ("desk",), namespaces=EVERYWHERE)


def somebody(*roles: str, permissions: tuple[str, ...] = (), subject: str = "new") -> Principal:
    return Principal("kubegate", subject, roles, permissions, namespaces=EVERYWHERE)


def missing(grantee: Principal, principal: Principal = DESK, engine: Engine = ENGINE) -> str:
    return missing_for_credential(engine, principal, grantee, NOW)


@pytest.mark.req("R17", "I3.6")
def test_what_one_holds_may_be_passed_on_and_no_more() -> None:
    assert missing(somebody("viewer")) == ""
    assert missing(somebody("ghost")) == "", "gives nothing"
    assert missing(somebody("admin")).startswith("k8s:")
    assert missing(somebody(permissions=("k8s:pods:delete",))) == "k8s:pods:delete", "everywhere is more than in dev"
    inside = replace(somebody(permissions=("k8s:pods:delete",)), namespaces=Scope.of(["dev"]))
    assert missing(inside) == ""
    assert missing(replace(somebody("admin"), namespaces=Scope.of(["dev"]))) != "", "other permissions, there too"
    assert missing(somebody(permissions=("kubegate:users:create",))) == "kubegate:users:create"
    assert missing(somebody(permissions=("k8s:widgets.acme.example:list",))) == "k8s:widgets.acme.example:list"


@pytest.mark.req("R17", "R1", "I3.6")
def test_whom_a_credential_names_counts_with_all_that_policy_gives_him() -> None:
    assert missing(somebody("viewer", subject="boss")) != ""
    assert missing(replace(somebody("viewer"), issuer="https://idp.example", groups=("sre",))) != ""
    elevation = Elevation("e1", "kubegate", "new", "admin", Scope.of(["prod"]), NOW + 60)
    assert missing(somebody("viewer"), engine=ENGINE.with_elevations([elevation], "r")) != ""


@pytest.mark.req("R17", "I3.6")
def test_conditions_caps_and_ends_of_who_grants_count() -> None:
    careful = replace(DESK, roles=("desk", "careful"))
    assert missing(somebody("careful"), careful) == "", "under the same condition"
    assert missing(somebody(permissions=("k8s:nodes:list",)), careful) == "k8s:nodes:list"
    assert missing(somebody("viewer"), replace(DESK, namespaces=Scope.of(["other"]))) == "k8s:pods:list"
    lasting = replace(DESK, roles=("keys",))
    until = 1704067200.0
    assert missing(replace(somebody("viewer"), expires=until), lasting) == "", "bound until then"
    for expires in (until + 1, NEVER):
        assert missing(replace(somebody("viewer"), expires=expires), lasting) != "", "not for as long"
