"""Changing the cluster through the whole stack: what policy decides about a change, and what the record has of it."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import RunningStack

CANARIES = [f"cAnArYwr1te{index:02}Zx" for index in range(8)]
PLACE: dict[str, Any] = {"namespace": "feature-x"}


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a:1"}], **spec}}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


@pytest.mark.req("I8.8", "I8.9")
def test_a_privileged_pod_needs_its_own_permission_whatever_makes_it(stack: RunningStack) -> None:
    maker = stack.new_key("maker", "--permission", "k8s:*", "--namespace", "feature-x")
    trusted = stack.new_key(
        "trusted", "--permission", "k8s:*", "--permission", "kubegate:danger:privileged-pod", "--namespace", "feature-x"
    )
    manifest = deployment("priv", hostPID=True)
    bad = {"spec": {"template": {"spec": {"hostPID": True}}}}
    for tool, arguments in (
        ("create_resource", {"kind": "deployments", "manifest": manifest, **PLACE}),
        ("apply_resource", {"kind": "deployments", "manifest": manifest, **PLACE}),
        ("create_resource", {"kind": "pods", "manifest": {**POD, "metadata": {"name": "p"}}, **PLACE}),
        ("patch_resource", {"kind": "deployments", "name": "preview", "patch": bad, **PLACE}),
    ):
        for dry_run in (True, False):
            denied = stack.call(tool, {**arguments, "dry_run": dry_run}, maker)
            assert denied.status_code == 403, denied.text
            assert "kubegate:danger:privileged-pod" in denied.text
            assert "hostPID is true" in denied.text
        recorded = stack.events(event_type="mcp_request", action=tool)[-1]
        assert (recorded["result"], recorded["user"]) == ("failure", "maker")
        assert "kubegate:danger:privileged-pod" in recorded["metadata"]["permission_check"]
    assert "priv" not in stack.kubectl("get", "deploy,pods", "-n", "feature-x", "-o", "name")
    made = stack.call("create_resource", {"kind": "deployments", "manifest": manifest, **PLACE}, trusted)
    assert made.status_code == 200, made.text
    image = {"name": "priv", "image": "a:2", **PLACE}
    assert stack.call("set_image", image, maker).status_code == 403, "the result is judged, not the change"
    assert stack.call("set_image", image, trusted).status_code == 200
    assert stack.call("scale_deployment", {"name": "priv", "replicas": 2, **PLACE}, maker).status_code == 200
    stack.kubectl("delete", "deploy", "priv", "-n", "feature-x")


POD: dict[str, Any] = {"spec": {"hostPID": True, "containers": [{"name": "a", "image": "a:1"}]}}


@pytest.mark.req("I8.9")
def test_what_takes_all_within_it_along_needs_its_own_permission(stack: RunningStack) -> None:
    dangers: dict[str, tuple[str, dict[str, Any]]] = {
        "delete-namespace": ("delete_resource", {"kind": "namespaces", "name": "staging"}),
        "delete-node": ("delete_resource", {"kind": "nodes", "name": "dev-node-1"}),
        "delete-crd": ("delete_resource", {"kind": "crd", "name": "backups.demo.example.com"}),
        "drain-node": ("drain_node", {"name": "dev-node-1", "force": True, "delete_emptydir_data": True}),
    }
    everything = stack.new_key("deleter", "--permission", "k8s:*", "--all-namespaces")
    more = [part for danger in dangers for part in ("--permission", f"kubegate:danger:{danger}")]
    trusted = stack.new_key("deleter", "--permission", "k8s:*", *more, "--all-namespaces")
    for danger, (tool, arguments) in dangers.items():
        denied = stack.call(tool, {**arguments, "dry_run": True}, everything)
        assert denied.status_code == 403, denied.text
        assert f"kubegate:danger:{danger}" in denied.text
        seen = stack.call(tool, {**arguments, "dry_run": True}, trusted)
        assert seen.status_code == 200, seen.text
        assert seen.json()["needs_confirmation"]
    assert any("pod production/" in one["path"] for one in seen.json()["changes"])


@pytest.mark.req("R10", "I8.1")
def test_a_scaler_scales_by_any_tool_and_does_nothing_else(stack: RunningStack) -> None:
    key = stack.new_key("scaler", "--permission", "k8s:deployments:scale", "--namespace", "feature-x")
    which = {"kind": "deployments", "name": "preview", **PLACE}
    patched = stack.call("patch_resource", {**which, "patch": {"spec": {"replicas": 2}}}, key)
    assert patched.status_code == 200, patched.text
    recorded = stack.events(event_type="mcp_request", action="patch_resource", result="success")[-1]
    assert recorded["metadata"]["permission_check"] == "k8s:deployments:scale"
    for patch in ({"spec": {"replicas": 2, "paused": True}}, {"spec": {"paused": True}}):
        denied = stack.call("patch_resource", {**which, "patch": patch}, key)
        assert (denied.status_code, "k8s:deployments:patch" in denied.text) == (403, True), denied.text
    labels = stack.new_key("labels", "--permission", "k8s:deployments:patch", "--namespace", "feature-x")
    assert stack.call("patch_resource", {**which, "patch": {"metadata": {"labels": {"a": "b"}}}}, labels).is_success
    for tool, change in (
        ("patch_resource", {**which, "patch": {"spec": {"replicas": 3}, "metadata": {"labels": {"a": "c"}}}}),
        (
            "apply_resource",
            {"kind": "deploy", "manifest": {"metadata": {"name": "preview"}, "spec": {"replicas": 3}}, **PLACE},
        ),
    ):
        denied = stack.call(tool, {**change, **({"force": True} if tool.startswith("apply") else {})}, labels)
        assert (denied.status_code, "k8s:deployments:scale" in denied.text) == (403, True), denied.text
    stack.kubectl("scale", "deploy", "preview", "-n", "feature-x", "--replicas", "1")


@pytest.mark.req("I8.10")
def test_bad_input_is_refused_with_its_place_and_reaches_nothing(stack: RunningStack) -> None:
    cm = {"kind": "configmaps", **PLACE}
    for manifest, said in (
        ({"metadata": {"name": "a", "namespace": "production"}}, "metadata.namespace is 'production'"),
        ({"metadata": {"name": "../x"}}, "metadata.name must be a Kubernetes name"),
        ({"metadata": {"name": "a"}, "dta": {}}, "dta"),
        ({"metadata": {"name": "a"}, "kind": "Secret"}, "kind is 'Secret'"),
        ("metadata: {name: a}\ndata: &x {a: b}\n", "anchor or alias"),
    ):
        refused = stack.call("create_resource", {**cm, "manifest": manifest})
        assert refused.status_code == 400, refused.text
        assert said in refused.text
    assert (
        stack.call("create_resource", {"kind": "pods/exec", "manifest": {"metadata": {"name": "a"}}}).status_code == 400
    )
    assert " a " not in stack.kubectl("get", "cm", "-A")


@pytest.mark.req("R26", "I8.2")
def test_what_is_written_as_a_secret_is_nowhere_else(stack: RunningStack) -> None:
    first, second, third, fourth, fifth, sixth, seventh, eighth = CANARIES
    which = {"name": "w", **PLACE}
    manifest = {"metadata": {"name": "x"}, "stringData": {"k": third}}
    patch = [{"op": "add", "path": "/data/k", "value": base64.b64encode(fourth.encode()).decode()}]
    env = deployment("leaky")
    env["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "API_TOKEN", "value": fifth}]
    calls: list[tuple[str, dict[str, Any], int]] = [
        ("create_secret", {**which, "data": {"k": first}}, 200),
        ("update_secret", {**which, "data": {"k": second}}, 200),
        ("create_resource", {"kind": "secrets", "manifest": manifest, **PLACE}, 200),
        ("apply_resource", {"kind": "Secret", "manifest": {**manifest, "stringData": {"k": sixth}}, **PLACE}, 200),
        ("patch_resource", {"kind": "secrets", **which, "patch": patch, "type": "json"}, 200),
        ("apply_resource", {"kind": "deployments", "manifest": env, **PLACE}, 200),
        # What is refused is recorded, too.
        ("create_resource", {"kind": "secrets", "manifest": {**manifest, "nope": seventh}, **PLACE}, 400),
        ("create_secret", {**which, "data": {"k": eighth}}, 409),
    ]
    said = []
    try:
        for tool, arguments, status in calls:
            for dry_run in (True, False):
                answer = stack.call(tool, {**arguments, "dry_run": dry_run})
                assert answer.status_code == status or dry_run, answer.text
                said.append((tool, answer.text))
    finally:
        stack.kubectl("delete", "secret/w", "secret/x", "deploy/leaky", "-n", "feature-x")
    said.append(("mirror", Path(stack.endpoints["audit_log"]).read_text(encoding="utf-8")))
    said += [(str(log), log.read_text(encoding="utf-8")) for log in stack.home.rglob("*.log")]
    stores = [store.read_bytes() for store in stack.home.rglob("*.db*")]
    for canary in CANARIES:
        encoded = base64.b64encode(canary.encode()).decode().rstrip("=")
        assert not [where for where, text in said if canary in text or encoded in text], canary
        assert not any(canary.encode() in store or encoded.encode() in store for store in stores), canary
