"""An agent on call: what it sees of the cluster through the whole stack, and what it never sees (I7.4)."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.stack import RunningStack, eventually

CANARIES = [f"cAnArYe2e{index:02}Zx" for index in range(12)]


def manifests() -> str:
    secret, password, annotation, env, argument, url, data, block, token, message, applied, inner = CANARIES
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "leaks"}}
    config["data"] = {
        "password": data,
        "app.yaml": f"db:\n  password: |\n    {block}\n",
        "s": f'{{"token": "{token}"}}',
    }
    annotations = {
        "x/token": annotation,
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(
            {"stringData": {"k": applied}, "kind": "Secret"}
        ),
        "x/copy": json.dumps({"kind": "Secret", "data": {"k": base64.b64encode(inner.encode()).decode()}}),
    }
    container = {
        "name": "app",
        "image": "app:1",
        "command": ["serve", "--token", argument],
        "env": [{"name": "API_KEY", "value": env}, {"name": "DSN", "value": f"postgres://u:{url}@db/x"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "leaks", "annotations": annotations},
        "spec": {"containers": [container]},
    }
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": "leaks"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "leaks"},
        "type": "Warning",
        "reason": "Unhealthy",
        "message": f"probe failed with password={message}",
    }
    hidden = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "leaks"},
        "stringData": {"plain": secret, "password": password},
    }
    return yaml.safe_dump_all([config, pod, event, hidden])


@pytest.mark.req("R26", "I7.4")
def test_no_canary_is_in_an_answer_the_record_its_mirror_or_a_log(stack: RunningStack, tmp_path: Path) -> None:
    stack.kubectl("create", "namespace", "leaks")
    path = tmp_path / "leaks.yaml"
    path.write_text(manifests(), encoding="utf-8")
    stack.kubectl("create", "-f", str(path))
    place = {"name": "p", "namespace": "leaks"}
    calls: list[tuple[str, dict[str, Any]]] = [
        *((tool, {"namespace": "leaks"}) for tool in ("list_pods", "list_events", "list_configmaps", "list_secrets")),
        *((tool, place) for tool in ("get_pod", "diagnose", "get_pod_logs")),
        ("get_secret", {"name": "s", "namespace": "leaks"}),
        *(("list_resources", {"kind": kind, "namespace": "leaks"}) for kind in ("pods", "cm", "secrets", "ev")),
        *(
            ("get_resource", {"kind": kind, "name": name, "namespace": "leaks"})
            for kind, name in (("pod", "p"), ("cm", "c"), ("secret", "s"), ("event", "e"))
        ),
        ("get_resource", {"kind": "pod", "fields": ["spec.containers.env", "metadata.annotations"], **place}),
        ("get_pod_logs", {"grep": "password=" + CANARIES[0], **place}),
        # The API server's own words about a bad request may quote it.
        ("list_pods", {"namespace": "leaks", "field_selector": f"password={CANARIES[1]}"}),
    ]
    try:
        eventually(lambda: "Running" in stack.kubectl("get", "pod", "p", "-n", "leaks"), "a running pod")
        said = []
        for tool, arguments in calls:
            response = stack.call(tool, arguments)
            assert response.status_code == (400 if "field_selector" in arguments else 200), response.text
            said.append((tool, response.text))
        revealed = stack.call("get_secret", {"name": "s", "namespace": "leaks", "reveal": True})
        assert revealed.json()["data"]["plain"] == CANARIES[0]
        assert (
            stack.call("get_secret", {"name": "s", "namespace": "leaks", "reveal": True}, stack.viewer).status_code
            == 403
        )
        reader = stack.new_key("no-reveal", "--permission", "k8s:*", "--all-namespaces")
        denied = stack.call("get_secret", {"name": "s", "namespace": "leaks", "reveal": True}, reader)
        assert denied.status_code == 403
        assert "kubegate:secrets:reveal" in denied.text
    finally:
        stack.kubectl("delete", "namespace", "leaks")
    said.append(("mirror", Path(stack.endpoints["audit_log"]).read_text(encoding="utf-8")))
    said += [(str(log), log.read_text(encoding="utf-8")) for log in stack.home.rglob("*.log")]
    stores = [store.read_bytes() for store in (stack.home / "audit").rglob("*.db*")]
    for canary in CANARIES:
        encoded = base64.b64encode(canary.encode()).decode().rstrip("=")
        found = [where for where, text in said if canary in text or encoded in text]
        assert not found, canary
        assert not any(canary.encode() in store for store in stores), canary


@pytest.mark.req("I7.1")
def test_a_wait_leaves_an_intent_and_an_outcome_and_a_generic_call_its_own_permission(stack: RunningStack) -> None:
    answer = stack.result("wait_for", kind="deploy", name="nginx", namespace="default", condition="rolledout")
    assert answer["met"], answer
    outcome = stack.events(event_type="mcp_request", action="wait_for", phase="outcome")[-1]
    assert outcome["result"] == "success"
    assert stack.events(event_type="mcp_request", event_id=outcome["intent_id"])[0]["phase"] == "intent"
    stack.result("list_resources", kind="backups", namespace="production")
    recorded = stack.events(event_type="mcp_request", action="list_resources")[-1]
    assert recorded["metadata"]["permission_check"] == "k8s:backups.demo.example.com:list"
    key = stack.new_key("backups", "--permission", "k8s:backups.demo.example.com:list", "--namespace", "production")
    assert stack.call("list_resources", {"kind": "bak", "namespace": "production"}, key).status_code == 200
    assert stack.call("list_resources", {"kind": "bak", "namespace": "development"}, key).status_code == 403
    assert stack.call("list_resources", {"kind": "pods", "namespace": "production"}, key).status_code == 403


@pytest.mark.req("I7.1", "I7.2")
def test_the_crashing_worker_is_diagnosed_through_the_stack(stack: RunningStack) -> None:
    answer = stack.result("diagnose", kind="deployment", name="worker", namespace="development")
    assert not answer["healthy"]
    assert answer["log"]
    viewer = stack.call("diagnose", {"kind": "deployment", "name": "worker", "namespace": "development"}, stack.viewer)
    assert viewer.status_code == 200, viewer.text
    assert any("k8s:events:list" in line for line in viewer.json()["not_shown"])


@pytest.mark.req("R19", "R12")
def test_a_key_that_is_disabled_ends_what_it_follows(stack: RunningStack) -> None:
    key = stack.new_key("follower", "--role", "viewer")
    [pod, *_] = stack.call("list_pods", {"namespace": "default"}, key).json()["pods"]
    follow = {"name": pod["name"], "namespace": "default", "follow_seconds": 25}
    with ThreadPoolExecutor(1) as aside:
        following = aside.submit(stack.call, "get_pod_logs", follow, key)
        eventually(lambda: stack.events(action="get_pod_logs", user="follower", phase="intent"), "it is followed")
        stack.run("keys", "disable", key.split("_")[1])
        ended = following.result()
    assert ended.status_code == 401, ended.text
    [outcome] = eventually(
        lambda: stack.events(action="get_pod_logs", user="follower", phase="outcome"), "the end is on record"
    )
    assert outcome["result"] == "failure"
