"""`kubegate cluster rbac`: the manifests open exactly what the policy grants, and nothing more (R2)."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from services.authz.policy import load_policy
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Principal, Role
from services.authz.policy.parse import parse_policy
from services.authz.policy.permissions import PERMISSIONS, Permission
from services.authz.policy.scope import EVERYWHERE
from services.cli.cluster_rbac import CORE, DIRECT, app, cluster_rbac, needs, role_group, rules_for, to_yaml, unbound
from services.cli.home import EMBEDDED_KINDS

GOLDEN = Path(__file__).parents[2] / "golden" / "rbac-policies.yaml"
POLICY = load_policy(GOLDEN)
NAMESPACES = ("default", "development", "feature-x", "kube-system", "production", "staging")


def opens(objects: list[dict[str, Any]], subject: str, verb: str, group: str, resource: str, namespace: str) -> bool:
    """What a kube-apiserver would say: RBAC evaluated from the manifests, in the plainest way."""
    roles = {each["metadata"]["name"]: each["rules"] for each in objects if each["kind"] == "ClusterRole"}
    for binding in objects:
        everywhere = binding["kind"] == "ClusterRoleBinding"
        here = binding["kind"] == "RoleBinding" and binding["metadata"]["namespace"] == namespace
        if not (everywhere or here) or subject not in [each["name"] for each in binding["subjects"]]:
            continue
        for rule in roles[binding["roleRef"]["name"]]:
            if verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]:
                return True
    return False


def requests_of(permission: Permission) -> list[tuple[str, str, str]]:
    """The (verb, group, resource) that a call under a permission makes."""
    rule = needs(permission)
    return [(verb, rule["apiGroups"][0], rule["resources"][0]) for verb in rule["verbs"]] if rule else []


@pytest.mark.req("R2", "I2.9")
@pytest.mark.parametrize("role", POLICY.roles, ids=lambda role: role.name)
def test_what_policy_allows_the_cluster_opens(role: Role) -> None:
    engine, objects = Engine(POLICY), cluster_rbac(POLICY, NAMESPACES)
    principal = Principal("kubegate", "p", (role.name,), namespaces=EVERYWHERE)
    for (group, resource, subresource, verb), permission in PERMISSIONS.items():
        for namespace in NAMESPACES if permission.kind.namespaced else ("",):
            action = Action(group, resource, verb, subresource, namespace, "x")
            if isinstance(engine.decide(principal, action), Allowed):
                for request in requests_of(permission):
                    assert opens(objects, role_group(role.name), *request, namespace), (action, request)


@pytest.mark.req("R2", "I2.9")
@pytest.mark.parametrize("role", POLICY.roles, ids=lambda role: role.name)
def test_what_no_permission_needs_the_cluster_keeps_shut(role: Role) -> None:
    engine, objects = Engine(POLICY), cluster_rbac(POLICY, NAMESPACES)
    principal = Principal("kubegate", "p", (role.name,), namespaces=EVERYWHERE)
    for namespace in ("", *NAMESPACES):
        wanted = set()
        for (group, resource, subresource, verb), permission in PERMISSIONS.items():
            action = Action(group, resource, verb, subresource, namespace, "" if not namespace else "x")
            if isinstance(engine.decide(principal, action), Allowed):
                wanted |= set(requests_of(permission))
        for permission in PERMISSIONS.values():
            if permission.kind.namespaced is bool(namespace):
                for request in requests_of(permission):
                    assert opens(objects, role_group(role.name), *request, namespace) is (request in wanted)


@pytest.mark.req("R2", "I2.9")
def test_the_viewer_is_bound_where_the_policy_says_and_may_only_look() -> None:
    objects = cluster_rbac(POLICY, NAMESPACES)
    viewer = [each for each in objects if each["metadata"]["name"] == "kubegate:role:viewer"]
    assert [(each["kind"], each["metadata"].get("namespace")) for each in viewer] == [
        ("ClusterRole", None),
        ("RoleBinding", "default"),
        ("RoleBinding", "development"),
    ]
    assert viewer[0]["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["metrics.k8s.io"], "resources": ["pods"], "verbs": ["get", "list"]},
    ]


def test_patterns_are_resolved_against_the_namespaces_that_exist() -> None:
    def bound(namespaces: tuple[str, ...] | None) -> list[str]:
        return [
            each["metadata"]["namespace"]
            for each in cluster_rbac(POLICY, namespaces)
            if each["kind"] == "RoleBinding" and each["metadata"]["name"] == "kubegate:role:developer"
        ]

    assert bound(NAMESPACES) == ["development", "feature-x"]
    assert bound(("feature-y", "featurex", "my-feature-x")) == ["feature-y"]
    assert bound(None) == ["development"]
    assert unbound(POLICY, None) == [
        'role developer: feature-* is not bound; give the namespaces: --namespace-list "$(kubectl get ns -o name)"'
    ]
    assert unbound(POLICY, ("default", "development")) == [
        "role operator: namespace staging does not exist, so nothing is bound there"
    ]


@pytest.mark.req("R2")
def test_the_core_may_impersonate_the_policys_groups_and_no_other() -> None:
    objects = cluster_rbac(POLICY, NAMESPACES)
    [core] = [each for each in objects if each["kind"] == "ClusterRole" and each["metadata"]["name"] == CORE]
    impersonates = {tuple(rule["resources"]): rule for rule in core["rules"] if "impersonate" in rule["verbs"]}
    assert set(impersonates) == {("users",), ("groups",), ("userextras/request-id",)}
    groups = impersonates["groups",]["resourceNames"]
    assert groups == [DIRECT, *sorted(f"kubegate:role:{role.name}" for role in POLICY.roles)]
    assert not any(name.startswith("system:") for name in groups)
    [rest] = [rule for rule in core["rules"] if "impersonate" not in rule["verbs"]]
    assert rest == {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list"]}
    [binding] = [each for each in objects if each["kind"].endswith("Binding") and each["metadata"]["name"] == CORE]
    assert binding["subjects"] == [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": CORE}]


def test_every_permission_of_the_cluster_has_its_needs_and_no_other_has_any() -> None:
    for permission in PERMISSIONS.values():
        assert (needs(permission) is None) is permission.text.startswith("kubegate:")
        assert "*" not in json.dumps(needs(permission))


def test_direct_keys_can_be_narrowed() -> None:
    assert rules_for(["kubegate:*"], namespaced_only=False) == []
    narrow = cluster_rbac(POLICY, NAMESPACES, direct=["k8s:pods:logs"])
    [rules] = [each["rules"] for each in narrow if each["kind"] == "ClusterRole" and each["metadata"]["name"] == DIRECT]
    assert rules == [{"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}]


def test_the_yaml_is_plain_and_says_the_same() -> None:
    objects = cluster_rbac(POLICY, NAMESPACES)
    text = to_yaml(objects)
    assert list(yaml.safe_load_all(text)) == objects
    assert "&id" not in text


@pytest.mark.req("I2.9")
def test_the_command_prints_manifests_from_a_file_or_from_the_stack(tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["rbac", "--policy", str(GOLDEN), "--namespace-list", "namespace/default\nnamespace/feature-x"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert list(yaml.safe_load_all(result.stdout)) == cluster_rbac(POLICY, ["default", "feature-x"])
    assert "namespace staging does not exist" in result.stderr

    result = runner.invoke(app, [*arguments, "--json"])
    assert json.loads(result.stdout) == cluster_rbac(POLICY, ["default", "feature-x"])

    home = tmp_path / "home"
    home.mkdir()
    assert runner.invoke(app, ["rbac", "--home", str(home)]).exit_code == 2
    kubeconfig = home / "cluster" / "kubeconfig"
    (home / "endpoints.json").write_text(json.dumps({"policy": str(GOLDEN), "kubeconfig": str(kubeconfig)}))
    result = runner.invoke(app, ["rbac", "--home", str(home)])
    assert list(yaml.safe_load_all(result.stdout)) == cluster_rbac(POLICY, NAMESPACES, kinds=EMBEDDED_KINDS)
    (home / "endpoints.json").write_text(json.dumps({"policy": str(GOLDEN), "kubeconfig": "/elsewhere"}))
    result = runner.invoke(app, ["rbac", "--home", str(home)])
    assert list(yaml.safe_load_all(result.stdout)) == cluster_rbac(POLICY)

    for wrong in (
        ["--namespace-list", "Bad"],
        ["--kind-list", "pods"],
        ["--direct", "k8s:pod:list"],
        ["--policy", str(tmp_path / "absent")],
    ):
        assert runner.invoke(app, ["rbac", "--policy", str(GOLDEN), *wrong]).exit_code == 2


@pytest.mark.req("I5.9")
def test_the_groups_of_heirs_may_do_what_they_inherit_where_it_holds() -> None:
    policy = parse_policy(b"""
roles:
  - {name: base, permissions: ["k8s:pods:list"], namespaces: [default]}
  - {name: middle, inherits: [base], permissions: ["k8s:nodes:list"]}
  - {name: top, inherits: [middle]}
bindings:
  - {role: top, group: ops}
deny:
  - {name: frozen, permissions: ["k8s:pods:*"]}
""")
    objects = cluster_rbac(policy)
    bound = {
        (each["kind"], each["metadata"].get("namespace", ""), each["roleRef"]["name"]): [
            subject["name"] for subject in each["subjects"]
        ]
        for each in objects
        if "Binding" in each["kind"]
    }
    assert bound["RoleBinding", "default", "kubegate:role:base"] == [
        "kubegate:role:base",
        "kubegate:role:middle",
        "kubegate:role:top",
    ]
    assert bound["ClusterRoleBinding", "", "kubegate:role:middle"] == ["kubegate:role:middle", "kubegate:role:top"]
    assert ("ClusterRoleBinding", "", "kubegate:role:top") not in bound, "it grants nothing of its own"
    [core] = [each for each in objects if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "kubegate:core"]
    [groups] = [rule["resourceNames"] for rule in core["rules"] if rule["resources"] == ["groups"]]
    assert {"kubegate:role:base", "kubegate:role:middle", "kubegate:role:top"} <= set(groups)


@pytest.mark.req("R10", "I7.1")
def test_a_custom_kind_is_bound_where_a_grant_names_it_or_a_wildcard_shall_cover_it() -> None:
    named = rules_for(["k8s:widgets.example.com:list"], namespaced_only=True)
    assert named == [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get", "list", "watch"]}]
    assert not [rule for rule in rules_for(["k8s:*"], namespaced_only=False) if "example.com" in rule["apiGroups"]]
    covered = rules_for(["k8s:*"], namespaced_only=False, kinds=["widgets.example.com"])
    assert [rule["resources"] for rule in covered if "example.com" in rule["apiGroups"]] == [["widgets"]]
    pods = rules_for(["k8s:pods:*"], namespaced_only=True, kinds=["widgets.example.com"])
    assert {rule["apiGroups"][0] for rule in pods} == {"", "metrics.k8s.io"}
