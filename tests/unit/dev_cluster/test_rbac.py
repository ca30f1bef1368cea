"""RBAC denies by default, and grants exactly what a binding says."""

from typing import Any

import pytest

from services.dev_cluster.clock import Clock
from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Kind
from services.dev_cluster.rbac import MASTERS, Action, Rbac, User, rule_allows
from services.dev_cluster.store import Store

PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
BOB = User("bob", ("devs", "system:authenticated"))
LIST_PODS = Action("list", "", "pods", namespace="x")


@pytest.mark.parametrize(
    ("rule", "action", "allowed"),
    [
        (PODS, Action("get", "", "pods"), True),
        (PODS, Action("delete", "", "pods"), False),
        (PODS, Action("get", "apps", "pods"), False),
        (PODS, Action("get", "", "pods", "log"), False),
        (PODS | {"resources": ["pods/log"]}, Action("get", "", "pods", "log"), True),
        (PODS | {"resources": ["pods/log"]}, Action("get", "", "pods"), False),
        (PODS | {"resources": ["*/log"]}, Action("get", "", "pods", "log"), True),
        (PODS | {"resources": ["*"]}, Action("get", "", "pods", "log"), True),
        (PODS | {"resourceNames": ["a"]}, Action("get", "", "pods", name="a"), True),
        (PODS | {"resourceNames": ["a"]}, Action("get", "", "pods", name="b"), False),
        (PODS | {"resourceNames": ["a"]}, Action("list", "", "pods"), False),
        (PODS | {"verbs": ["*"], "apiGroups": ["*"]}, Action("delete", "apps", "pods"), True),
        (PODS, Action("get", path="/version"), False),
        ({"nonResourceURLs": ["/api/*"], "verbs": ["get"]}, Action("get", path="/api/v1"), True),
        ({"nonResourceURLs": ["/api/*"], "verbs": ["get"]}, Action("get", path="/version"), False),
        ({"nonResourceURLs": ["*"], "verbs": ["*"]}, Action("get", "", "pods"), False),
    ],
)
def test_rules(rule: dict[str, Any], action: Action, allowed: bool) -> None:
    assert rule_allows(rule, action) is allowed


class World:
    """A store with roles and bindings."""

    def __init__(self) -> None:
        self.store = Store(Clock())
        self.rbac = Rbac(self.store)

    def role(self, kind: Kind, name: str, *rules: dict[str, Any], namespace: str = "", **more: Any) -> None:
        self._create(kind, name, namespace, {"rules": list(rules)} | more)

    def bind(
        self, kind: Kind, role: str, subject: dict[str, str], namespace: str = "", of: str = "ClusterRole"
    ) -> None:
        ref = {"kind": of, "name": role, "apiGroup": "rbac.authorization.k8s.io"}
        self._create(kind, f"bind-{role}", namespace, {"roleRef": ref, "subjects": [subject]})

    def _create(self, kind: Kind, name: str, namespace: str, body: dict[str, Any]) -> None:
        meta = {"name": name} | ({"namespace": namespace} if namespace else {})
        self.store.create(kind, {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta} | body)

    def allows(self, user: User, action: Action) -> bool:
        return self.rbac.decide(user, action).allowed


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_is_allowed_without_a_binding(world: World) -> None:
    world.role(CLUSTER_ROLE, "pods", PODS)
    assert not world.allows(BOB, LIST_PODS)
    assert world.allows(User("root", (MASTERS,)), LIST_PODS)


@pytest.mark.parametrize(
    "subject",
    [
        {"kind": "User", "name": "bob"},
        {"kind": "Group", "name": "devs"},
    ],
)
def test_a_role_binding_counts_in_its_namespace_only(world: World, subject: dict[str, str]) -> None:
    world.role(CLUSTER_ROLE, "pods", PODS)
    world.bind(ROLE_BINDING, "pods", subject, "x")
    assert world.allows(BOB, LIST_PODS)
    assert not world.allows(BOB, Action("list", "", "pods", namespace="y"))
    assert not world.allows(BOB, Action("list", "", "pods"))
    assert not world.allows(User("eve", ("other",)), LIST_PODS)


def test_kinds_of_subjects_are_not_confused(world: World) -> None:
    world.role(CLUSTER_ROLE, "pods", PODS)
    world.bind(CLUSTER_ROLE_BINDING, "pods", {"kind": "User", "name": "devs"})
    assert not world.allows(BOB, LIST_PODS)


def test_a_service_account_is_bound_by_namespace_and_name(world: World) -> None:
    world.role(ROLE, "pods", PODS, namespace="x")
    world.bind(ROLE_BINDING, "pods", {"kind": "ServiceAccount", "name": "a", "namespace": "y"}, "x", of="Role")
    assert world.allows(User("system:serviceaccount:y:a"), LIST_PODS)
    assert not world.allows(User("system:serviceaccount:x:a"), LIST_PODS)


def test_a_binding_to_a_role_that_does_not_exist_grants_nothing(world: World) -> None:
    world.bind(CLUSTER_ROLE_BINDING, "missing", {"kind": "User", "name": "bob"})
    assert not world.allows(BOB, LIST_PODS)


def test_aggregated_roles(world: World) -> None:
    meta = {"metadata": {"name": "part", "labels": {"to": "all"}}, "rules": [PODS]}
    world.store.create(CLUSTER_ROLE, {"apiVersion": CLUSTER_ROLE.api_version, "kind": "ClusterRole"} | meta)
    selectors = {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}
    world.role(CLUSTER_ROLE, "all", aggregationRule=selectors)
    world.bind(CLUSTER_ROLE_BINDING, "all", {"kind": "User", "name": "bob"})
    assert world.allows(BOB, LIST_PODS)


def test_nobody_grants_what_they_do_not_hold(world: World) -> None:
    world.role(CLUSTER_ROLE, "pods", PODS)
    world.bind(CLUSTER_ROLE_BINDING, "pods", {"kind": "User", "name": "bob"})

    def try_to_grant(rule: dict[str, Any]) -> None:
        world.rbac.check_no_escalation(BOB, CLUSTER_ROLE, {"metadata": {"name": "new"}, "rules": [rule]})

    try_to_grant(PODS | {"verbs": ["get"]})
    try_to_grant(PODS | {"resourceNames": ["a"]})
    for more in ({"verbs": ["*"]}, {"resources": ["secrets"]}, {"resources": ["*"]}, {"apiGroups": ["*"]}):
        with pytest.raises(ApiError) as refused:
            try_to_grant(PODS | more)
        assert refused.value.code == 403
    ref = {"kind": "ClusterRole", "name": "cluster-admin"}
    world.role(CLUSTER_ROLE, "cluster-admin", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})
    with pytest.raises(ApiError):
        world.rbac.check_no_escalation(BOB, CLUSTER_ROLE_BINDING, {"metadata": {"name": "new"}, "roleRef": ref})
