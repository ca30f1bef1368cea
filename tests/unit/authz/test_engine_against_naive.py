"""The engine and a naive evaluator written from the rules must never differ."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Policy, Principal, Role
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
)
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
grants = st.builds(naive.Grant, st.lists(st.sampled_from(TEXTS), max_size=3).map(tuple), scopes)
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


@settings(max_examples=600, deadline=None)
@given(
    roles=st.lists(grants, max_size=3),
    direct=st.lists(st.sampled_from(TEXTS), max_size=2).map(tuple),
    cap=scopes,
    action=actions,
    namespace=st.sampled_from(["", *NAMES[:30]]),
)
def test_both_evaluators_agree(
    roles: list[naive.Grant],
    direct: tuple[str, ...],
    cap: tuple[str, ...] | None,
    action: tuple[str, str, str, str],
    namespace: str,
) -> None:
    policy = Policy(tuple(Role(f"r{n}", each.permissions, scope(each.namespaces)) for n, each in enumerate(roles)), "r")
    held = tuple(role.name for role in policy.roles)
    principal = Principal("kubegate", "p", held, direct, namespaces=scope(cap))
    group, resource, subresource, verb = action
    asked = Action(group, resource, verb, subresource, namespace)
    decision = Engine(policy).decide(principal, asked)
    expected = naive.may([*roles, naive.Grant(direct, cap)], cap, action, namespace, WITNESSES)
    assert isinstance(decision, Allowed) is expected, decision


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
