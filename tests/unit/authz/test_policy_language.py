"""The policy language: inheritance, bindings, deny rules, conditions and tenants, and what is wrong with them."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from services.authz.policy.cel import compile_condition
from services.authz.policy.conditions import InvalidCondition
from services.authz.policy.document import InvalidPolicy
from services.authz.policy.engine import Engine
from services.authz.policy.explain import explain
from services.authz.policy.grants import missing_for_role
from services.authz.policy.model import Action, Allowed, Circumstances, Denied, Elevation, Principal, Reason
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE, Scope
from services.cli.policy_cases import read_cases, run_case

PUBLISHED = json.loads((Path(__file__).parents[3] / "configs" / "rbac-policies.schema.json").read_text())
NOON = 1_800_014_400.0  # Friday 15 January 2027, 12:00 UTC
AT = Circumstances(NOON, "10.1.2.3")
LIST = Action("", "pods", "list", namespace="default")


def engine(text: str) -> Engine:
    jsonschema.validate(yaml.load(text, yaml.BaseLoader), PUBLISHED)
    return Engine(parse_policy(text.encode()))


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidPolicy) as error:
        parse_policy(text.encode())
    return [f"{each.line}:{each.column} {each.message}" for each in error.value.problems]


def person(*roles: str, **more: object) -> Principal:
    given: dict[str, object] = {"namespaces": EVERYWHERE, **more}
    return Principal("kubegate", str(given.pop("subject", "alice")), roles, **given)  # type: ignore[arg-type]


def allowed(policy: Engine, principal: Principal, action: Action = LIST, at: Circumstances = AT) -> bool:
    return isinstance(policy.decide(principal, action, at), Allowed)


def pods(verb: str, namespace: str, **more: object) -> Action:
    return Action("", "pods", verb, namespace=namespace, **more)  # type: ignore[arg-type]


INHERITED = """
roles:
  - {name: base, permissions: ["k8s:pods:list"], namespaces: [default]}
  - {name: middle, inherits: [base], permissions: ["k8s:pods:delete"], namespaces: [staging]}
  - {name: top, inherits: [middle]}
"""


@pytest.mark.req("I5.1")
def test_a_role_holds_what_it_inherits_each_in_its_own_namespaces() -> None:
    policy = engine(INHERITED)
    decision = policy.decide(person("top"), LIST, AT)
    assert decision == Allowed("k8s:pods:list", "role:base#1", "base")
    assert allowed(policy, person("top"), pods("delete", "staging"))
    assert not allowed(policy, person("top"), pods("delete", "default")), "from the same grant"
    assert not allowed(policy, person("top"), pods("list", "staging"))
    assert not allowed(policy, person("base"), pods("delete", "staging")), "only downwards"


@pytest.mark.req("I5.1")
def test_circles_and_dangling_names_are_refused_where_they_stand() -> None:
    text = """\
roles:
  - {name: a, inherits: [b]}
  - {name: b, inherits: [c, veiwer]}
  - {name: c, inherits: [a]}
  - {name: viewer, inherits: [viewer], permissions: []}
bindings:
  - {role: vieweer, group: g}
  - {role: a, subject: s, group: g}
  - {role: a}
  - {role: a, tenant: acme, issuer: x, expires: tomorrow}
  - {role: a, group: g, expires: 2027-01-01}
"""
    assert problems(text) == [
        "3:29 there is no role 'veiwer'; did you mean 'viewer'?",
        "4:26 roles inherit each other in a circle: a -> b -> c -> a",
        "5:31 roles inherit each other in a circle: viewer -> viewer",
        "7:12 there is no role 'vieweer'; did you mean 'viewer'?",
        "8:5 a binding names exactly one of subject, group and tenant",
        "9:5 a binding names exactly one of subject, group and tenant",
        "10:23 there is no tenant 'acme'",
        "10:37 issuer belongs to a subject or a group",
        "10:49 expires must be a time with an offset, such as 2027-01-31T18:00:00Z",
        "11:34 expires must be a time with an offset, such as 2027-01-31T18:00:00Z",
    ]


def test_a_chain_of_inheritance_may_be_as_long_as_a_policy() -> None:
    chain = "".join(f"  - {{name: r{n}, inherits: [r{n + 1}]}}\n" for n in range(3000))
    policy = engine(f"roles:\n{chain}  - {{name: r3000, permissions: ['k8s:pods:list']}}\n")
    assert allowed(policy, person("r0"))


BOUND = """
roles: [{name: viewer, permissions: ["k8s:pods:list"]}]
bindings:
  - {role: viewer, subject: bob}
  - {role: viewer, subject: bob, issuer: "https://idp.example"}
  - {role: viewer, group: ops, expires: "2027-01-15T13:00:00+01:00"}
"""


@pytest.mark.req("I5.1", "R1")
def test_bindings_give_roles_to_persons_by_issuer_and_subject() -> None:
    policy = engine(BOUND)
    assert allowed(policy, person(subject="bob"))
    assert allowed(policy, Principal("https://idp.example", "bob", namespaces=EVERYWHERE))
    assert not allowed(policy, Principal("https://other.example", "bob", namespaces=EVERYWHERE))
    assert not allowed(policy, person(subject="ops")), "a group is not a subject"
    assert not allowed(policy, person(subject="bob", namespaces=Scope.of(["staging"]))), "the cap holds (R4)"


@pytest.mark.req("I5.1", "R11")
def test_a_binding_ends_and_nothing_that_rests_on_it_is_cached_beyond() -> None:
    policy = engine(BOUND)
    member = person(groups=("ops",))
    before = policy.decide(member, LIST, Circumstances(NOON - 1))
    assert isinstance(before, Allowed)
    assert before.until == NOON
    assert not allowed(policy, member, at=Circumstances(NOON))
    assert not allowed(policy, member, at=Circumstances(NOON - 1)), "a clock set back brings nothing back"


DENYING = """
roles: [{name: admin, permissions: ["k8s:*"]}]
deny:
  - {name: no-prod, description: "freeze", permissions: ["k8s:pods:*"], namespaces: ["prod*"]}
  - {name: no-nodes, permissions: ["k8s:nodes:delete"]}
"""


@pytest.mark.req("I5.1")
def test_a_deny_rule_beats_every_allow() -> None:
    policy = engine(DENYING)
    everyone = person("admin", permissions=("k8s:*",))
    denied = policy.decide(everyone, pods("list", "production"), AT)
    assert denied == Denied(
        Reason.DENY_RULE,
        "k8s:pods:list in namespace production is not allowed: the rule 'no-prod' denies it (freeze).",
        deny_rule="no-prod",
    )
    assert denied.rule_id == "deny:no-prod"
    assert allowed(policy, everyone, pods("list", "pro"))
    assert not allowed(policy, everyone, pods("list", "")), "a list of all namespaces would reach into it"
    assert policy.allowed_scope(everyone, pods("list", "")) == EVERYWHERE
    assert policy.denied_scope(pods("list", "")) == Scope.of(["prod*"])
    assert not allowed(policy, everyone, Action("", "nodes", "delete", name="n1"))
    assert allowed(policy, everyone, Action("", "nodes", "list"))
    elevated = policy.with_elevations([Elevation("e1", "kubegate", "alice", "admin", EVERYWHERE, NOON + 60)], "r2")
    assert not allowed(elevated, everyone, pods("list", "production"))


CONDITIONAL = """
roles:
  - {name: mfa, permissions: ["k8s:deployments:scale"], condition: "'mfa' in principal.amr && action.replicas <= 20"}
  - name: office
    permissions: ["k8s:pods:list"]
    condition: >-
      request.time.getHours('Europe/Berlin') >= 8 && request.time.getHours('Europe/Berlin') < 18
      && request.source.startsWith('10.')
  - {name: plain, permissions: ["k8s:*"]}
deny:
  - {name: many, permissions: ["k8s:deployments:scale"], condition: "action.replicas > 50"}
"""


def scale(replicas: int | None) -> Action:
    return Action("apps", "deployments", "scale", "scale", "default", "web", replicas=replicas)


@pytest.mark.req("I5.1", "R11")
def test_conditions_read_principal_action_time_and_source() -> None:
    policy = engine(CONDITIONAL)
    strong = person("mfa", amr=("pwd", "mfa"))
    decision = policy.decide(strong, scale(20), AT)
    assert isinstance(decision, Allowed)
    assert decision.until == float("inf"), "it reads nothing that passes"
    too_many = policy.decide(strong, scale(21), AT)
    assert isinstance(too_many, Denied)
    assert too_many.reason is Reason.CONDITION
    assert "the condition of role:mfa#1 does not hold" in too_many.explanation
    assert (too_many.permission, too_many.namespace) == ("k8s:deployments:scale", "default")
    assert not allowed(policy, person("mfa", amr=("pwd",)), scale(1))

    worker = person("office")
    decision = policy.decide(worker, LIST, AT)
    assert isinstance(decision, Allowed)
    assert decision.until == 0, "it reads time and source, so it is never cached"
    assert not allowed(policy, worker, at=Circumstances(NOON + 6 * 3600, "10.1.2.3"))
    assert not allowed(policy, worker, at=Circumstances(NOON, "192.0.2.1"))


@pytest.mark.req("I5.1")
def test_a_condition_without_an_answer_grants_nothing_and_denies() -> None:
    policy = engine(CONDITIONAL)
    strong = person("mfa", amr=("mfa",))
    assert not allowed(policy, strong, scale(None)), "no replicas to compare"
    denied = policy.decide(person("plain"), scale(None), AT)
    assert isinstance(denied, Denied)
    assert denied.deny_rule == "many", "a deny rule that cannot be evaluated denies"
    assert allowed(policy, person("plain"), scale(50))
    assert not allowed(policy, person("office"), at=Circumstances(NOON)), "no source known"
    broken = engine('roles: [{name: r, permissions: ["k8s:*"], condition: "1 / 0 == 1"}]')
    assert not allowed(broken, person("r"))


@pytest.mark.req("R11")
def test_a_condition_that_reads_time_spoils_caching_even_where_another_grant_allows() -> None:
    policy = engine(CONDITIONAL)
    decision = policy.decide(person("plain", "office"), LIST, AT)
    assert isinstance(decision, Allowed)
    assert decision.rule_id == "role:plain#1"
    assert decision.until == 0
    assert compile_condition("request.time > timestamp('2027-01-01T00:00:00Z')").volatile
    assert compile_condition("true || request.source == ''").volatile
    assert compile_condition("principal.auth_time > timestamp('2027-01-01T00:00:00Z')").volatile


@pytest.mark.req("I5.1")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("principal.amrr == []", "the condition reads the unknown name 'principal.amrr'; there are principal.issuer, "),
        ("action.replicas < '20'", "found no matching overload for '_<_' applied to '(int, string)' (at 1:17"),
        ("action.name", "the condition must be true or false, not of type string"),
        ("action.name ==", "mismatched input '<EOF>' (at 1:15 of the condition)"),
        ("__import__('os').system('id') == 0", "unknown name"),
        ("true" + " && true" * 200, "the condition is longer than 1000 characters"),
    ],
)
def test_a_condition_is_checked_when_it_is_loaded(text: str, said: str) -> None:
    with pytest.raises(InvalidCondition) as error:
        compile_condition(text)
    assert said in str(error.value)
    [problem] = problems(f"roles:\n  - name: r\n    permissions: []\n    condition: {json.dumps(text)}\n")
    assert problem.startswith("4:16 ")


def test_a_condition_cannot_run_away() -> None:
    values = {"principal.amr": [str(n) for n in range(5000)]}
    nested = "principal.amr.all(a, principal.amr.all(b, principal.amr.all(c, a + b != c + 'x')))"
    assert compile_condition(nested).holds(values) is None, "stopped: no answer"
    evil = compile_condition("principal.subject.matches('^(a+)+$')")
    assert evil.holds({"principal.subject": "a" * 100_000 + "!"}) is False


TENANTS = """
roles: [{name: admin, permissions: ["k8s:*", "kubegate:*"]}]
tenants:
  - {name: acme, namespaces: ["acme-*", shop]}
  - {name: other, namespaces: ["other-*"]}
cross_tenant:
  - {subject: root}
  - {group: auditors}
"""


@pytest.mark.req("R13", "I5.1")
def test_a_principal_of_one_tenant_never_reaches_another_whatever_its_roles() -> None:
    policy = engine(TENANTS)
    ours = person("admin", tenant="acme", permissions=("k8s:*",), groups=("auditors",))
    assert allowed(policy, ours, pods("delete", "acme-web"))
    assert allowed(policy, ours, pods("list", "shop"))
    for namespace in ("other-web", "unowned", ""):
        denied = policy.decide(ours, pods("list", namespace), AT)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.TENANT
        assert not denied.permission, "no grant would help"
        assert "other" not in denied.explanation.replace("other-web", "")
    assert not allowed(policy, ours, Action("", "nodes", "list"))
    assert not allowed(policy, ours, Action("kubegate", "keys", "create"))
    assert policy.allowed_scope(ours, pods("list", "")).patterns() == ["acme-*", "shop"]
    assert policy.allowed_scope(ours, Action("", "namespaces", "list")).patterns() == ["acme-*", "shop"]
    for action in (Action("kubegate", "elevations", "request"), Action("kubegate", "audit", "read")):
        assert allowed(policy, ours, action), "of which it sees its tenant's"
    assert not allowed(policy, ours, Action("kubegate", "audit", "attest"))


@pytest.mark.req("R13")
def test_with_tenants_nobody_is_outside_them_but_the_cross_tenant() -> None:
    policy = engine(TENANTS)
    for principal in (person("admin"), person("admin", tenant="ghost"), person("admin", groups=("", "x"))):
        denied = policy.decide(principal, pods("list", "acme-web"), AT)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.TENANT
    for principal in (person("admin", subject="root"), person("admin", groups=("auditors",))):
        for action in (pods("list", "acme-web"), pods("list", "unowned"), Action("", "nodes", "list")):
            assert allowed(policy, principal, action)
    assert not allowed(policy, Principal("https://idp.example", "root", ("admin",), namespaces=EVERYWHERE))


@pytest.mark.req("R13")
def test_two_tenants_cannot_own_one_namespace() -> None:
    text = """\
roles: []
tenants:
  - {name: a, namespaces: ["team-*", x]}
  - {name: b, namespaces: ["team-*-web", "team"]}
  - {name: c, namespaces: [x, "y*"]}
  - {name: d, namespaces: ["yy*"]}
  - {name: e, namespaces: ["z*"]}
"""
    assert problems(text) == [
        "4:12 tenants 'a' and 'b' would both own namespace 'team-*-web'",
        "5:12 tenants 'a' and 'c' would both own namespace 'x'",
        "6:12 tenants 'c' and 'd' would both own namespace 'yy*'",
    ]


@pytest.mark.req("I5.3")
def test_an_explanation_names_every_rule_in_order_and_why() -> None:
    policy = engine(CONDITIONAL)
    principal = person("absent", "mfa", "office", "plain", permissions=("k8s:pods:list",))
    explained = explain(policy, principal, scale(60), AT)
    assert [(step.rule_id, step.said, step.decides) for step in explained.steps] == [
        ("deny:many", "denies", True),
        ("role:absent", "the policy has no such role", False),
        (
            "role:mfa#1",
            "role of the credential: its condition does not hold: 'mfa' in principal.amr && action.replicas <= 20",
            False,
        ),
        ("role:office", "role of the credential: does not grant it", False),
        ("role:plain#1", "role of the credential: allows", False),
        ("direct", "permission of the credential: does not grant it", False),
    ]


@pytest.mark.req("R17", "I5.5")
def test_an_elevation_is_a_role_in_some_namespaces_until_it_ends() -> None:
    policy = engine(INHERITED)
    given = [Elevation("e1", "kubegate", "alice", "middle", Scope.of(["stag*"]), NOON + 60)]
    elevated = policy.with_elevations(given, "r.1")
    decision = elevated.decide(person(), pods("delete", "staging"), AT)
    assert decision == Allowed("k8s:pods:delete", "elevation:e1:role:middle#1", "middle")
    assert isinstance(decision, Allowed)
    assert decision.until == NOON + 60
    assert elevated.revision == "r.1"
    assert not allowed(elevated, person(), LIST), "default lies outside its namespaces"
    assert not allowed(elevated, person(), pods("delete", "staging"), Circumstances(NOON + 60))
    assert not allowed(elevated, person(subject="bob"), pods("delete", "staging"))
    assert not allowed(elevated, Principal("idp", "alice", namespaces=EVERYWHERE), pods("delete", "staging"))
    assert not allowed(elevated, person(tenant="t"), pods("delete", "staging"))
    assert not allowed(policy, person(), pods("delete", "staging"))


@pytest.mark.req("R17")
def test_what_a_principal_may_grant_is_what_it_holds_without_condition_and_for_as_long() -> None:
    policy = engine(INHERITED)
    staging = Scope.of(["staging"])
    assert missing_for_role(policy, person("middle"), "middle", EVERYWHERE, NOON) == ""
    assert missing_for_role(policy, person("base"), "middle", EVERYWHERE, NOON) == "k8s:pods:delete"
    assert missing_for_role(policy, person("middle", namespaces=staging), "middle", EVERYWHERE, NOON) == "k8s:pods:list"
    assert missing_for_role(policy, person("middle", namespaces=staging), "middle", staging, NOON) == ""
    bound = engine(BOUND)
    member = person(groups=("ops",))
    assert missing_for_role(bound, member, "viewer", EVERYWHERE, NOON) == ""
    assert missing_for_role(bound, member, "viewer", EVERYWHERE, NOON + 1) == "k8s:pods:list"
    conditional = engine(CONDITIONAL)
    assert missing_for_role(conditional, person("office"), "office", EVERYWHERE, NOON) == "k8s:pods:list"
    lifted = policy.with_elevations([Elevation("e", "kubegate", "alice", "top", EVERYWHERE, NOON + 1e6)], "x")
    assert missing_for_role(lifted, person(), "top", EVERYWHERE, NOON), "what is lent cannot be lent on"


@pytest.mark.req("I5.1", "I5.7")
def test_the_example_of_the_document_is_a_policy_and_its_case_passes() -> None:
    document = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()
    policy_text, case_text = re.findall(r"^```yaml\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    policy = engine(policy_text)
    [case] = read_cases(yaml.safe_load(case_text)).cases
    assert run_case(policy, case).fault == ""
