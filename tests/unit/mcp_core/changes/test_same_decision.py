"""A change is decided by what it changes: generic and specific tools come to the same action (R10)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.mcp_core.changes import paths_of, permission_to, permissions_for, replicas_in, scaling
from services.mcp_core.model import Action
from services.mcp_core.placement import resolve
from services.mcp_core.ports import Kind, ObjectRef, Resource
from services.mcp_core.tools import REGISTRY, split_controls, validate
from services.mcp_core.tools.object_arguments import patch_permissions
from services.mcp_core.tools.planning import plan_change

KINDS = {
    "deployment": Kind(Resource("apps", "v1", "deployments"), "Deployment", True),
    "statefulset": Kind(Resource("apps", "v1", "statefulsets"), "StatefulSet", True),
    "daemonset": Kind(Resource("apps", "v1", "daemonsets"), "DaemonSet", True),
    "pods": Kind(Resource("", "v1", "pods"), "Pod", True),
    "secrets": Kind(Resource("", "v1", "secrets"), "Secret", True),
    "nodes": Kind(Resource("", "v1", "nodes"), "Node", False),
    "widgets": Kind(Resource("example.com", "v1", "widgets"), "Widget", True),
}
RESTARTED = "kubectl.kubernetes.io/restartedAt"


def action(tool: str, kind: str = "", **arguments: Any) -> Action:
    """The action without the tool's name, which policy may cap but which grants nothing."""
    row = REGISTRY[tool]
    given_ = {**arguments, **({"kind": kind} if "kind" in row.input_schema["properties"] else {})}
    _, own = split_controls(validate(row, given_))
    found = resolve("c", row, own, KINDS[kind] if row.any_kind else None)
    return Action(found.cluster, found.permission, "", found.namespace, found.name, found.replicas)


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@pytest.mark.req("R10", "I8.1")
@given(NAMES, NAMES, st.integers(0, 1000), st.sampled_from(["deployment", "statefulset"]))
def test_scaling_is_scaling(name: str, namespace: str, replicas: int, kind: str) -> None:
    where = {"name": name, "namespace": namespace}
    asked = action("scale_deployment", kind, replicas=replicas, **where)
    assert str(asked.permission) == f"k8s:{kind}s:scale"
    assert action("patch_resource", kind, patch={"spec": {"replicas": replicas}}, **where) == asked
    for op in ("replace", "add"):
        patch = [{"op": op, "path": "/spec/replicas", "value": replicas}]
        assert action("patch_resource", kind, patch=patch, type="json", **where) == asked


@pytest.mark.req("R10", "I8.1")
@given(NAMES, NAMES, st.sampled_from(["deployment", "statefulset", "daemonset"]))
def test_restarting_setting_images_and_rolling_back(name: str, namespace: str, kind: str) -> None:
    where = {"name": name, "namespace": namespace}
    template: dict[str, Any] = {"metadata": {"annotations": {RESTARTED: "now"}}}
    restart = action("patch_resource", kind, patch={"spec": {"template": template}}, **where)
    assert action("restart_deployment", kind, **where) == restart
    assert str(restart.permission) == f"k8s:{kind}s:restart"
    image = {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}}
    patched = action("patch_resource", kind, patch=image, type="strategic", **where)
    assert action("set_image", kind, image="b", **where) == patched
    assert action("rollout_undo", kind, **where) == patched
    assert action("apply_resource", kind, manifest={"metadata": {"name": name}}, namespace=namespace) == patched


@pytest.mark.req("R10", "I8.1")
@given(NAMES, NAMES)
def test_pods_secrets_and_nodes(name: str, namespace: str) -> None:
    where = {"name": name, "namespace": namespace}
    assert action("delete_resource", "pods", **where) == action("delete_pod", **where)
    manifest = {"metadata": {"name": name}, "stringData": {"a": "b"}}
    manage = action("create_secret", data={"a": "b"}, **where)
    assert str(manage.permission) == "k8s:secrets:manage"
    assert action("update_secret", data={"a": "b"}, **where) == action("delete_secret", **where) == manage
    assert action("create_resource", "secrets", manifest=manifest, namespace=namespace) == manage
    assert action("apply_resource", "secrets", manifest=manifest, namespace=namespace) == manage
    assert action("patch_resource", "secrets", patch={"data": {"a": "Yg=="}}, **where) == manage
    assert action("delete_resource", "secrets", **where) == manage
    cordon = action("cordon_node", name=name)
    assert action("patch_resource", "nodes", patch={"spec": {"unschedulable": True}}, name=name) == cordon
    assert action("uncordon_node", name=name) == cordon


@pytest.mark.req("R10")
@pytest.mark.parametrize(
    ("patch", "wanted"),
    [
        ({}, ["patch"]),
        ({"spec": {"replicas": 3}}, ["scale"]),
        ({"spec": {"replicas": 3}, "metadata": {"resourceVersion": "7"}}, ["scale"]),
        ({"spec": {"replicas": 3, "paused": True}}, ["patch", "scale"]),
        ({"spec": {"$patch": "replace", "replicas": 3}}, ["patch", "scale"]),
        ({"spec": {"replicas": {"a": 1}}}, ["patch"]),
        ({"spec": {"template": {"metadata": {"annotations": {RESTARTED: "x", "b": "c"}}}}}, ["patch", "restart"]),
        ({"spec": {"template": {"metadata": {"annotations": {}}}}}, ["patch"]),
        ([{"op": "test", "path": "/spec/replicas", "value": 2}], ["patch"]),
        ([{"op": "replace", "path": "/spec", "value": {"replicas": 9}}], ["patch"]),
        ([{"op": "replace", "path": "", "value": {}}], ["patch"]),
        ([{"op": "replace", "path": "/spec/replicas/", "value": 9}], ["patch"]),
        ([{"op": "move", "from": "/metadata/labels/n", "path": "/spec/replicas"}], ["patch", "scale"]),
        (
            [{"op": "add", "path": "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt"}],
            ["restart"],
        ),
    ],
)
def test_whatever_else_a_patch_touches_needs_the_permission_to_patch(patch: Any, wanted: list[str]) -> None:
    form = "json" if isinstance(patch, list) else "strategic"
    arguments = {"patch": patch, "type": form}
    found = patch_permissions(arguments, KINDS["deployment"].resource)
    assert [permission.verb for permission in found] == wanted


@pytest.mark.req("R10")
def test_only_what_has_replicas_is_scaled_and_only_nodes_are_cordoned() -> None:
    for kind in ("daemonset", "pods", "widgets", "nodes"):
        (found,) = permissions_for(KINDS[kind].resource, [("spec", "replicas")])
        assert found.verb == "patch"
    (found,) = permissions_for(KINDS["deployment"].resource, [("spec", "unschedulable")])
    assert found.verb == "patch"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["a", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["spec", "replicas", "template", "metadata", "x", "$patch"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        result.pop(key, None)
        if value is not None:
            result[key] = merged(target.get(key) if isinstance(target, dict) else None, value)
    return result


@pytest.mark.req("R10", "I8.1")
@given(st.dictionaries(st.sampled_from(["spec", "x"]), JSON, max_size=2), st.integers(0, 5))
async def test_no_patch_changes_the_number_of_pods_without_the_permission_to_scale(
    patch: dict[str, Any], before: int
) -> None:
    """Whatever was said beforehand, what comes of it is decided, and policy was told the number."""
    resource = KINDS["deployment"].resource
    old = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": before, "x": 1}}
    new = merged(old, patch)
    first = patch_permissions({"patch": patch}, resource)[0]
    ref = ObjectRef(resource, "default", "web")
    try:
        plan = await plan_change(
            "Deployment", ref, old, new, "", decided=frozenset({first}), replicas=replicas_in(patch)
        )
    except InvalidArgument:
        return
    after = new.get("spec", {}).get("replicas") if isinstance(new.get("spec"), dict) else None
    asked = {first, *(need.permission for need in plan.needs)}
    if after != before and isinstance(new.get("spec"), dict):
        assert scaling(resource) in asked
        assert after == replicas_in(patch)
        assert plan.confirm == (after == 0)
    rest = {key: value for key, value in new.items() if key != "spec"} != {"metadata": old["metadata"]}
    if rest:
        assert permission_to("patch", resource) in asked


def test_the_fields_of_a_patch() -> None:
    assert sorted(paths_of({"a": {"b": None, "c": []}, "d": {}})) == [("a", "b"), ("a", "c"), ("d",)]
    assert replicas_in([{"op": "add", "path": "/spec", "value": {"replicas": 4}}]) == 4
    assert replicas_in({"spec": {"replicas": True}}) is None
