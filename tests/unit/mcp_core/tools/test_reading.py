"""The reading tools over objects in memory: what they ask and what they say."""

import json
from typing import Any

import pytest

from services.common.errors import FailedPrecondition, NotFound
from services.mcp_core.ports import LogText
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.usage import quantity
from tests.unit.mcp_core.tools.reading import DEPLOYMENTS, WIDGETS, call
from tests.unit.mcp_core.tools.session import MemorySession
from tests.unit.mcp_core.tools.test_tools import pod


@pytest.mark.req("I7.1", "R26")
async def test_a_pod_in_full_without_its_secrets() -> None:
    crashed = {
        "name": "app",
        "restartCount": 7,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off password=CANARY"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-22T10:00:00Z"}},
    }
    one = pod(
        "web-1",
        metadata={"ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True, "uid": "u"}]},
        spec={
            "containers": [
                {
                    "name": "app",
                    "image": "app:1",
                    "command": ["serve", "--token", "CANARY"],
                    "env": [
                        {"name": "DB_PASSWORD", "value": "CANARY"},
                        {"name": "MODE", "value": "fast"},
                        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
                    ],
                    "resources": {"limits": {"memory": "64Mi"}},
                }
            ]
        },
        status={"containerStatuses": [crashed], "podIP": "10.0.0.1"},
    )
    answer = await call("get_pod", {"name": "web-1", "namespace": "default"}, MemorySession({"pods": [one]}))
    assert "CANARY" not in json.dumps(answer)
    assert (answer["status"], answer["owner"], answer["ip"]) == ("CrashLoopBackOff", "ReplicaSet/web", "10.0.0.1")
    (container,) = answer["containers"]
    assert container["env"] == {"DB_PASSWORD": "[redacted]", "MODE": "fast", "KEY": "<secret db/password>"}
    assert container["last_exit"] == "terminated: Error, exit code 1, at 2026-11-22T10:00:00Z"
    assert container["limits"] == {"memory": "64Mi"}


@pytest.mark.req("I7.1")
async def test_the_newest_events_come_first_whatever_the_clusters_order_and_only_those_are_held() -> None:
    events = [
        {
            "metadata": {"name": f"e{index}", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "web-1"},
            "type": "Warning",
            "reason": "BackOff",
            "message": f"number {index} password=CANARY",
            "lastTimestamp": f"2026-11-22T10:{(index * 7) % 60:02}:00Z",
            "count": index,
        }
        for index in range(1, 40)
    ]
    session = MemorySession({"events": events})
    answer = await call(
        "list_events", {"namespace": "default", "name": "web-1", "type": "Warning", "limit": 3}, session
    )
    last = [one["last"] for one in answer["events"]]
    assert last == sorted((str(one["lastTimestamp"]) for one in events), reverse=True)[:3]
    assert answer["truncated"]
    assert "CANARY" not in json.dumps(answer)
    assert session.asked[0][2]["field_selector"] == "involvedObject.name=web-1,type=Warning"


SECRET = {
    "metadata": {"name": "db", "namespace": "default", "annotations": {"a": "Q0FOQVJZ"}},
    "type": "Opaque",
    "data": {"password": "Q0FOQVJZ", "raw": "/w=="},
}


@pytest.mark.req("I7.1", "R26")
async def test_a_secret_shows_its_keys_and_no_value_unless_revealing_was_asked_and_allowed() -> None:
    session = MemorySession({"secrets": [SECRET]})
    place = {"name": "db", "namespace": "default"}
    shut = await call("get_secret", place, session)
    assert (shut["data"], shut["bytes"], shut["revealed"]) == (
        {"password": "[redacted]", "raw": "[redacted]"},
        {"password": 6, "raw": 1},
        False,
    )
    assert "CANARY" not in json.dumps(shut)
    assert "Q0FOQVJZ" not in json.dumps(shut)
    denied = await call("get_secret", {**place, "reveal": True}, session, granted=frozenset())
    assert not denied["revealed"]
    opened = await call("get_secret", {**place, "reveal": True}, session)
    assert opened["data"] == {"password": "CANARY", "raw": "/w=="}
    needs = REGISTRY["get_secret"].needs
    assert [str(need.permission) for need in needs({"reveal": True}) if need.required] == ["kubegate:secrets:reveal"]
    assert needs({"reveal": False}) == ()


@pytest.mark.req("I7.1", "R26")
async def test_an_object_is_redacted_before_a_field_is_picked() -> None:
    one = {
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "a",
            "managedFields": [{"x": 1}],
            "labels": {"app.kubernetes.io/name": "web"},
        },
        "spec": {
            "replicas": 2,
            "template": {"spec": {"containers": [{"env": [{"name": "API_TOKEN", "value": "CANARY"}]}]}},
        },
    }
    session = MemorySession({"deployments": [one]})
    place = {"kind": "deploy", "name": "web", "namespace": "a"}
    whole = await call("get_resource", place, session, kind=DEPLOYMENTS)
    assert "managedFields" not in whole["object"]["metadata"]
    fields = [
        "spec.replicas",
        "spec.template.spec.containers.env.value",
        "metadata.labels.app.kubernetes.io/name",
        "no",
    ]
    picked = await call("get_resource", {**place, "fields": fields}, session, kind=DEPLOYMENTS)
    assert picked["object"] == {
        "spec.replicas": 2,
        "spec.template.spec.containers.env.value": [["[redacted]"]],
        "metadata.labels.app.kubernetes.io/name": "web",
    }


@pytest.mark.req("I7.2")
async def test_an_object_too_large_says_which_fields_there_are() -> None:
    big = {"metadata": {"name": "web", "namespace": "a"}, "spec": {f"f{index}": "x y " * 900 for index in range(20)}}
    answer = await call(
        "get_resource", {"kind": "w", "name": "web", "namespace": "a"}, MemorySession({"widgets": [big]}), kind=WIDGETS
    )
    assert answer["truncated"]
    assert "spec.f0" in answer["hint"]
    assert len(json.dumps(answer)) < 2000


OPENAPI = {
    "io.example.Widget": {
        "type": "object",
        "description": "A widget.",
        "x-kubernetes-group-version-kind": [{"group": "example.com", "version": "v1", "kind": "Widget"}],
        "required": ["spec"],
        "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/io.example.Spec"}], "description": "Wanted."}},
    },
    "io.example.Spec": {
        "type": "object",
        "properties": {
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/io.example.Part"}},
            "loop": {"$ref": "#/components/schemas/io.example.Spec"},
        },
    },
    "io.example.Part": {"type": "object", "properties": {"size": {"type": "integer", "description": "In mm."}}},
}


@pytest.mark.req("I7.1")
async def test_a_kind_explains_itself() -> None:
    session = MemorySession(openapi=OPENAPI)
    top = await call("explain_resource", {"kind": "widgets"}, session, ("a",), kind=WIDGETS)
    assert (top["description"], top["api_version"]) == ("A widget.", "example.com/v1")
    assert top["fields"] == [{"name": "spec", "type": "object", "description": "Wanted.", "required": True}]
    parts = await call("explain_resource", {"kind": "w", "path": "spec.parts"}, session, ("a",), kind=WIDGETS)
    assert (parts["type"], [one["name"] for one in parts["fields"]]) == ("[]object", ["size"])
    for path in ("spec.nothing", "spec.parts.size.x"):
        with pytest.raises(NotFound, match="no field"):
            await call("explain_resource", {"kind": "w", "path": path}, session, ("a",), kind=WIDGETS)


@pytest.mark.req("I7.1")
async def test_grep_looks_at_redacted_lines_and_gives_the_newest() -> None:
    session = MemorySession(log=LogText("".join(f"line {n} ERROR password=s{n}\n" for n in range(9)), False))
    place = {"name": "web-1", "namespace": "default"}
    answer = await call("get_pod_logs", {**place, "grep": "error", "tail_lines": 2, "since_seconds": 60}, session)
    assert answer["lines"] == [f"line {n} ERROR password=[redacted]" for n in (7, 8)]
    assert answer["searched"] == 9
    assert session.asked[0][2]["since"] == 60
    # What was removed cannot be felt for (R26).
    assert (await call("get_pod_logs", {**place, "grep": "s7"}, session))["lines"] == []


@pytest.mark.req("I7.1")
async def test_a_service_says_who_is_behind_it() -> None:
    service = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"selector": {"app": "web"}}}
    session = MemorySession({"services": [service]})
    place = {"name": "web", "namespace": "default"}
    assert "No pod is behind it" in (await call("get_service", place, session))["message"]
    ready = {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"name": "web-1"}}
    late = {"addresses": ["10.0.0.2"], "conditions": {"ready": False}, "targetRef": {"name": "web-2"}}
    session.objects["endpointslices"] = [
        {"metadata": {"name": "s", "namespace": "default"}, "endpoints": [ready, late]}
    ]
    answer = await call("get_service", place, session)
    assert (answer["endpoints"], answer["message"]) == (["web-1"], "1 of 2 endpoints are ready.")
    shut = await call("get_service", place, session, granted=frozenset())
    assert "endpoints" not in shut
    assert "k8s:endpointslices:list" in shut["message"]


@pytest.mark.req("I7.1")
async def test_nodes_say_their_problems() -> None:
    node = {
        "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "DiskPressure", "status": "True", "reason": "Full", "message": "disk"},
            ]
        },
    }
    (answer,) = (await call("list_nodes", {}, MemorySession({"nodes": [node]}), ("",)))["nodes"]
    assert (answer["status"], answer["roles"]) == ("Ready,SchedulingDisabled", ["control-plane"])
    assert answer["problems"] == ["DiskPressure=True: Full disk"]


@pytest.mark.req("I7.1")
@pytest.mark.parametrize(
    ("text", "number"),
    [("12m", 0.012), ("250000000n", 0.25), ("2", 2), ("1536Ki", 1536 * 1024), ("1.5Gi", 1.5 * 2**30), ("?", 0)],
)
def test_quantities_are_kubernetes_own(text: str, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


async def test_a_cluster_without_metrics_says_so() -> None:
    class Without(MemorySession):
        async def list(self, *_: Any, **__: Any) -> Any:
            raise NotFound("the server could not find the requested resource")

    for name, arguments in (("top_pods", {"namespace": "a"}), ("top_nodes", {})):
        with pytest.raises(FailedPrecondition, match="metrics-server"):
            await call(name, arguments, Without())
