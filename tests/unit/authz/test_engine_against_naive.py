"""The engine and a naive evaluator written from the rules must never differ."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.authz.policy.cel import compile_condition
from services.authz.policy.engine import Engine
from services.authz.policy.explain import explain
from services.authz.policy.model import (
    NEVER,
    Action,
    Allowed,
    Binding,
    Circumstances,
    DenyRule,
    Elevation,
    Policy,
    Principal,
    Role,
    Tenant,
    Who,
)
from services.authz.policy.permissions import GRANTABLE
from services.authz.policy.scope import EVERYWHERE, Scope, is_namespace
from tests.unit.authz import naive

LETTERS = "ab-"
NAMES = [
    "".join(each)
    for size in (1, 2, 3, 4, 5)
    for each in itertools.product(LETTERS, repeat=size)
    if is_namespace("".join(each))
]
ENDS = list(itertools.product(("", "a", "ab", "aba", "a-", "b"), ("", "a", "ba", "aba", "-a", "b")))
PATTERNS = [f"{prefix}*{suffix}" for prefix, suffix in ENDS]
WITNESSES = [*NAMES, *(f"{prefix}a{suffix}" for prefix, suffix in ENDS)]
"""Whenever two scopes share a name, they share one of these."""
RESOURCES = ["pods", "services", "secrets", "serviceaccounts", "deployments", "roles", "namespaces", "nodes"]
TEXTS = sorted(
    text for text in GRANTABLE if text.count(":") == 1 or text.split(":")[1] in {*RESOURCES, "resources", "keys"}
) + ["k8s:pods.evil.example:*", "k8s:pods.evil.example:list", "k8s:pods.evil.example:delete"]
SUBRESOURCES = ["", "", "", "log", "scale", "exec"]
VERBS = [
    "list",
    "get",
    "watch",
    "create",
    "delete",
    "restart",
    "manage",
    "logs",
    "scale",
    "reveal",
    "read",
    "*",
    "LIST",
]
KINDS = [*naive.NAMESPACED, *naive.CLUSTER, ("", "podsecrets"), ("evil.example", "pods"), ("", "*"), ("", "resources")]

scopes = st.none() | st.lists(st.sampled_from(NAMES[:20] + PATTERNS), min_size=1, max_size=3).map(tuple)
# Half of all texts and actions concern pods, so that grants, denials and conditions meet often.
texts = st.sampled_from(["k8s:*", "k8s:pods:*", "k8s:pods:list"]) | st.sampled_from(TEXTS)
grants = st.builds(naive.Grant, st.lists(texts, max_size=3).map(tuple), st.none() | scopes)
actions = st.sampled_from(
    [
        (group, resource, subresource, verb)
        for group, resource in KINDS
        for subresource in ("", "log", "scale", "exec")
        for verb in VERBS
        if naive.exists(group, resource, subresource, verb)
    ]
) | st.tuples(st.sampled_from(KINDS), st.sampled_from(SUBRESOURCES), st.sampled_from(VERBS)).map(
    lambda each: (*each[0], each[1], each[2])
)


def scope(patterns: tuple[str, ...] | None) -> Scope:
    return EVERYWHERE if patterns is None else Scope.of(patterns)


SUBJECTS = [
    naive.Who("subject", "p", "kubegate"),
    naive.Who("subject", "p", "https://idp.example"),
    naive.Who("group", "g1"),
    naive.Who("group", "g1", "https://idp.example"),
    naive.Who("tenant", "t1"),
]
ROLE_NAMES = ["r0", "r1", "r2", "r3"]
TENANTS = {"t1": ("a*",), "t2": ("b*b", "ba")}
TIMES = [1.7e9, 1.79e9, 1.8e9]
conditions = st.sampled_from(["", "", "", *naive.CONDITIONS])
expiries = st.none() | st.sampled_from([1.75e9, 1.79e9, 1.85e9])


@st.composite
def rules(draw: st.DrawFn) -> naive.Rules:
    """Roles inherit only later ones, as a policy without circles can be written."""
    names = ROLE_NAMES[: draw(st.integers(0, 4))]
    roles = {
        name: naive.Role(
            draw(grants),
            tuple(draw(st.lists(st.sampled_from(names[n + 1 :]), max_size=2, unique=True))) if names[n + 1 :] else (),
            draw(conditions),
        )
        for n, name in enumerate(names)
    }
    bindings: tuple[naive.Binding, ...] = ()
    elevations: tuple[naive.Elevation, ...] = ()
    if names:
        one = st.builds(naive.Binding, st.sampled_from(names), st.sampled_from(SUBJECTS), expiries, conditions)
        bindings = tuple(draw(st.lists(one, max_size=2)))
        other = st.builds(
            naive.Elevation, st.sampled_from(names), st.sampled_from(SUBJECTS[:2]), scopes, st.sampled_from(TIMES)
        )
        elevations = tuple(draw(st.lists(other, max_size=1)))
    tenants = draw(st.sampled_from([None, None, None, TENANTS]))
    deny = tuple(draw(st.lists(st.builds(naive.Deny, grants, conditions), max_size=1)))
    cross = tuple(draw(st.lists(st.sampled_from(SUBJECTS[:4]), max_size=2))) if tenants else ()
    return naive.Rules(roles, bindings, deny, tenants, cross, elevations)


people = st.builds(
    naive.Person,
    issuer=st.sampled_from(["kubegate", "https://idp.example"]),
    roles=st.lists(st.sampled_from([*ROLE_NAMES, "absent"]), max_size=3).map(tuple),
    groups=st.lists(st.sampled_from(["g1", "g2", ""]), max_size=2).map(tuple),
    tenant=st.sampled_from(["", "", "t1", "t2", "t3"]),
    amr=st.sampled_from([(), ("pwd",), ("pwd", "mfa")]),
    direct=st.lists(texts, max_size=2).map(tuple),
    cap=st.none() | scopes,
    tools=st.sampled_from([(), (), (), ("one",)]),
    narrowed_to=st.just(()) | st.lists(st.sampled_from(ROLE_NAMES) | texts, max_size=3).map(tuple),
)
questions = st.builds(
    naive.Asked,
    kind=st.just(("", "pods", "", "list")) | actions,
    namespace=st.sampled_from(["", "", *NAMES[:30]]),
    tool=st.sampled_from(["one", "two"]),
    replicas=st.sampled_from([None, 3, 30]),
    now=st.sampled_from(TIMES),
    source=st.sampled_from(["10.0.0.1", "192.0.2.1"]),
)
COMPILED = {text: compile_condition(text) for text in naive.CONDITIONS}


def who(each: naive.Who) -> Who:
    return Who(**{each.kind: each.name}, issuer=each.issuer)


def engine_of(given_rules: naive.Rules) -> Engine:
    policy = Policy(
        tuple(
            Role(
                name,
                role.grant.permissions,
                scope(role.grant.namespaces),
                "",
                role.inherits,
                COMPILED.get(role.condition),
            )
            for name, role in given_rules.roles.items()
        ),
        "r",
        tuple(
            Binding(line, each.role, who(each.who), each.expires or NEVER, COMPILED.get(each.condition))
            for line, each in enumerate(given_rules.bindings)
        ),
        tuple(
            DenyRule(f"d{n}", each.grant.permissions, scope(each.grant.namespaces), "", COMPILED.get(each.condition))
            for n, each in enumerate(given_rules.deny)
        ),
        tuple(Tenant(name, scope(each)) for name, each in (given_rules.tenants or {}).items()),
        tuple(who(each) for each in given_rules.cross_tenant),
    )
    elevations = [
        Elevation(f"e{n}", each.who.issuer, each.who.name, each.role, scope(each.namespaces), each.expires, tenant)
        for n, each in enumerate(given_rules.elevations)
        for tenant in ("", "t1", "t2", "t3")
    ]
    return Engine(policy, elevations)


def principal_of(person: naive.Person) -> Principal:
    return Principal(
        person.issuer,
        person.subject,
        person.roles,
        person.direct,
        scope(person.cap),
        frozenset(person.tools),
        tenant=person.tenant,
        groups=person.groups,
        amr=person.amr,
        narrowed_to=frozenset(person.narrowed_to),
    )


@pytest.mark.req("I5.10", "R4", "R10", "R13")
@pytest.mark.timeout(600)
@settings(max_examples=2_500, deadline=None)
@given(given_rules=rules(), person=people, asked=st.lists(questions, min_size=4, max_size=4))
def test_both_evaluators_agree(given_rules: naive.Rules, person: naive.Person, asked: list[naive.Asked]) -> None:
    """10,000 cases: 2,500 policies with four questions each, all asked twice, for the second answer is remembered."""
    engine, principal = engine_of(given_rules), principal_of(person)
    # In the order of time: for one engine, what has ended stays ended when a clock is set back.
    for question in sorted([*asked, *asked], key=lambda each: each.now):
        group, resource, subresource, verb = question.kind
        action = Action(
            group, resource, verb, subresource, question.namespace, tool=question.tool, replicas=question.replicas
        )
        at = Circumstances(question.now, question.source)
        decision = engine.decide(principal, action, at)
        expected = naive.may(given_rules, person, question, WITNESSES)
        assert isinstance(decision, Allowed) is expected, decision
        explained = explain(engine, principal, action, at)
        assert explained.decision == decision
        assert [step.rule_id for step in explained.steps if step.decides] == [decision.rule_id]


@settings(max_examples=400, deadline=None)
@given(roles=st.lists(grants, max_size=3), cap=scopes, action=actions)
def test_what_list_allowed_names_is_what_check_allows(
    roles: list[naive.Grant], cap: tuple[str, ...] | None, action: tuple[str, str, str, str]
) -> None:
    policy = Policy(tuple(Role(f"r{n}", each.permissions, scope(each.namespaces)) for n, each in enumerate(roles)), "r")
    principal = Principal("kubegate", "p", tuple(role.name for role in policy.roles), namespaces=scope(cap))
    group, resource, subresource, verb = action
    engine = Engine(policy)
    allowed = engine.allowed_scope(principal, Action(group, resource, verb, subresource))
    if (group, resource) in naive.NAMESPACED:
        for name in NAMES[:60]:
            decision = engine.decide(principal, Action(group, resource, verb, subresource, name))
            assert allowed.covers_namespace(name) is isinstance(decision, Allowed), name
    else:
        decision = engine.decide(principal, Action(group, resource, verb, subresource))
        assert (not allowed.empty) is isinstance(decision, Allowed)


@settings(max_examples=600, deadline=None)
@given(left=scopes, right=scopes)
def test_scopes_unite_and_intersect_like_sets_of_names(
    left: tuple[str, ...] | None, right: tuple[str, ...] | None
) -> None:
    one, other = scope(left), scope(right)
    both, either = one.intersect(other), one.union(other)
    assert both == other.intersect(one)
    for name in WITNESSES:
        mine, theirs = naive.inside(left, name), naive.inside(right, name)
        assert one.covers_namespace(name) is mine
        assert both.covers_namespace(name) is (mine and theirs), name
        assert either.covers_namespace(name) is (mine or theirs), name
    assert not one.covers_namespace("")
