"""The reading tools over objects in memory: what they ask, what they say, and how little room it takes."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.mcp_core.ports import Columns, Kind, LogText, Resource
from services.mcp_core.tools import REGISTRY, check_output, validate
from services.mcp_core.tools.base import Invocation, Structured
from services.mcp_core.tools.configuration import REVEAL
from services.mcp_core.tools.usage import quantity
from tests.unit.mcp_core.tools.session import MemorySession
from tests.unit.mcp_core.tools.test_tools import RUNNING, containers, pod

WIDGETS = Kind(Resource("example.com", "v1", "widgets"), "Widget", True, "widget")
DEPLOYMENTS = Kind(Resource("apps", "v1", "deployments"), "Deployment", True, "deployment", ("deploy",))
NAMESPACES = Kind(Resource("", "v1", "namespaces"), "Namespace", False, "namespace", ("ns",))
EVERYTHING = frozenset(
    {"k8s:events:list", "k8s:pods:logs", "k8s:nodes:list", "k8s:pods:list", "k8s:endpointslices:list", str(REVEAL)}
)


async def call(
    name: str,
    arguments: dict[str, Any],
    session: MemorySession,
    namespaces: tuple[str, ...] | None = None,
    *,
    kind: Kind | None = None,
    granted: frozenset[str] = EVERYTHING,
) -> Structured:
    tool = REGISTRY[name]
    validated = validate(tool, arguments)
    decided = namespaces if namespaces is not None else (validated.get("namespace", ""),)
    result = await tool.run(Invocation(validated, decided, session, kind, granted))
    check_output(tool, result)
    assert tool.text(result)
    return result


def many(count: int, namespace: str = "default") -> list[dict[str, Any]]:
    return [pod(f"web-7c5ddbdf54-{index:05}", namespace) for index in range(count)]


@pytest.mark.req("I7.2")
async def test_five_thousand_pods_take_less_than_eight_thousand_tokens_and_say_how_to_get_the_rest() -> None:
    session = MemorySession({"pods": many(5000)})
    answer = await call("list_pods", {"namespace": "default"}, session)
    # Three characters a token is less than any tokenizer gives for such text; both forms of the answer count.
    assert (len(json.dumps(answer)) + len(REGISTRY["list_pods"].text(answer))) / 3 < 8000
    assert answer["truncated"]
    assert answer["remaining"] == 5000 - len(answer["pods"])
    assert all(word in answer["hint"] for word in ("continue", "namespace", "label_selector", "fields", "limit"))
    assert len(session.asked) == 1


@pytest.mark.req("I7.2")
async def test_long_names_are_cut_by_size_and_none_is_lost() -> None:
    session = MemorySession({"pods": [pod(f"p{index:03}-" + "x" * 200) for index in range(90)]})
    seen: list[str] = []
    arguments: dict[str, Any] = {"namespace": "default"}
    while True:
        answer = await call("list_pods", arguments, session)
        assert len(json.dumps(answer["pods"])) < 16_000
        seen += [one["name"] for one in answer["pods"]]
        if not answer["truncated"]:
            break
        arguments["continue"] = answer["continue"]
    assert seen == sorted(one["metadata"]["name"] for one in session.objects["pods"])


@pytest.mark.req("I7.2", "R14")
@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 700), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 1500)),
)
def test_following_continue_gives_every_item_once(sizes: list[int], limit: int | None) -> None:
    pods = [one for index, size in enumerate(sizes) for one in many(size, f"n{index}")]
    names = tuple(f"n{index}" for index in range(len(sizes)))
    arguments: dict[str, Any] = {"all_namespaces": True} | ({"limit": limit} if limit else {})

    async def follow() -> None:
        seen: list[tuple[str, str]] = []
        for _ in range(4000):
            answer = await call("list_pods", arguments, MemorySession({"pods": pods}), names)
            assert not limit or len(answer["pods"]) <= limit
            seen += [(one["namespace"], one["name"]) for one in answer["pods"]]
            if not answer["truncated"]:
                break
            arguments["continue"] = answer["continue"]
        assert seen == [(one["metadata"]["namespace"], one["metadata"]["name"]) for one in pods]

    asyncio.run(follow())


@pytest.mark.req("I7.2")
async def test_pages_bound_what_is_held_at_once() -> None:
    session = MemorySession({"pods": many(1800)})
    answer = await call("list_pods", {"namespace": "default", "limit": 1700}, session)
    assert len(answer["pods"]) == 1700
    assert [rest["limit"] for _, _, rest in session.asked] == [500, 500, 500, 200]


@pytest.mark.req("I7.2")
async def test_fields_are_the_only_ones_and_unknown_ones_are_named() -> None:
    session = MemorySession({"pods": many(2)})
    answer = await call("list_pods", {"namespace": "default", "fields": ["name", "status"]}, session)
    assert answer["pods"] == [{"name": f"web-7c5ddbdf54-0000{index}", "status": "Running"} for index in range(2)]
    with pytest.raises(InvalidArgument, match="'phase'; known: name"):
        await call("list_pods", {"namespace": "default", "fields": ["phase"]}, session)


@pytest.mark.req("I7.2")
async def test_field_selectors_reach_the_cluster() -> None:
    session = MemorySession({"pods": []})
    await call("list_pods", {"namespace": "default", "field_selector": "status.phase!=Running"}, session)
    assert session.asked[0][2]["field_selector"] == "status.phase!=Running"


@pytest.mark.req("R14")
@pytest.mark.parametrize("token", ["x", "!!", "bnVsbA", "WzEsMiwzXQ", "WyJhIiwiYiIsLTFd", "WyJhIiwiYiIsOTk5OV0"])
async def test_a_foreign_continue_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="`continue`"):
        await call("list_pods", {"namespace": "default", "continue": token}, MemorySession())


@pytest.mark.req("R14")
async def test_a_continue_of_another_namespace_reads_no_more_than_was_decided() -> None:
    session = MemorySession({"pods": [*many(2, "mine"), *many(2, "theirs")]})
    # ["theirs", "", 0]
    answer = await call("list_pods", {"namespace": "mine", "continue": "WyJ0aGVpcnMiLCIiLDBd"}, session)
    assert not [one for one in answer["pods"] if one["namespace"] != "mine"]
    assert {ref.namespace for _, ref, _ in session.asked} <= {"mine"}


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


def workload(kind: str = "deployments", **parts: Any) -> MemorySession:
    one = {
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", "generation": 2} | parts.get("metadata", {}),
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}} | parts.get("spec", {}),
        "status": {"observedGeneration": 2, "replicas": 3} | parts.get("status", {}),
    }
    return MemorySession({kind: [one]})


@pytest.mark.req("I7.1")
@pytest.mark.parametrize(
    ("kind", "parts", "status", "message"),
    [
        ("deployment", {"metadata": {"generation": 3}}, "progressing", "not been seen"),
        ("deployment", {"spec": {"paused": True}}, "paused", "paused"),
        ("deployment", {"status": {"updatedReplicas": 1}}, "progressing", "1 of 3 pods are updated"),
        ("deployment", {"status": {"replicas": 4, "updatedReplicas": 3}}, "progressing", "1 old pods"),
        ("deployment", {"status": {"updatedReplicas": 3, "availableReplicas": 2}}, "progressing", "2 of 3"),
        ("deployment", {"status": {"updatedReplicas": 3, "availableReplicas": 3}}, "complete", "All 3"),
        (
            "deployment",
            {"status": {"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "m"}]}},
            "failed",
            "deadline",
        ),
        ("statefulset", {"status": {"updatedReplicas": 3, "availableReplicas": 3}}, "complete", "All 3"),
        (
            "daemonset",
            {"status": {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1}},
            "progressing",
            "1 of 2",
        ),
    ],
)
async def test_a_rollouts_state_is_kubectls(kind: str, parts: dict[str, Any], status: str, message: str) -> None:
    session = workload(f"{kind}s", **parts)
    answer = await call("rollout_status", {"name": "web", "namespace": "default", "kind": kind}, session)
    assert answer["status"] == status
    assert message in answer["message"]


@pytest.mark.req("I7.1")
async def test_the_history_holds_the_workloads_own_revisions_newest_first() -> None:
    session = workload(metadata={"annotations": {"deployment.kubernetes.io/revision": "2"}})

    def replica_set(number: int, owner: str) -> dict[str, Any]:
        return {
            "metadata": {
                "name": f"web-{number}",
                "namespace": "default",
                "annotations": {
                    "deployment.kubernetes.io/revision": str(number),
                    "kubernetes.io/change-cause": "set image token=CANARY",
                },
                "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": owner, "controller": True}],
            },
            "spec": {"template": {"spec": {"containers": [{"name": "a", "image": f"nginx:{number}"}]}}},
        }

    session.objects["replicasets"] = [replica_set(1, "u1"), replica_set(2, "u1"), replica_set(9, "other")]
    answer = await call("rollout_history", {"name": "web", "namespace": "default"}, session)
    assert [(one["revision"], one["images"], one["current"]) for one in answer["revisions"]] == [
        (2, ["nginx:2"], True),
        (1, ["nginx:1"], False),
    ]
    assert "CANARY" not in json.dumps(answer)


@pytest.mark.req("I7.1")
async def test_a_daemonsets_history_comes_from_its_controller_revisions() -> None:
    session = workload("daemonsets")
    session.objects["controllerrevisions"] = [
        {
            "metadata": {
                "name": f"web-{number}",
                "namespace": "default",
                "ownerReferences": [{"kind": "DaemonSet", "name": "web", "uid": "u1"}],
            },
            "revision": number,
            "data": {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": f"agent:{number}"}]}}}},
        }
        for number in (1, 2)
    ]
    answer = await call("rollout_history", {"name": "web", "namespace": "default", "kind": "daemonset"}, session)
    assert [(one["revision"], one["images"], one["current"]) for one in answer["revisions"]] == [
        (2, ["agent:2"], True),
        (1, ["agent:1"], False),
    ]


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


@pytest.mark.req("R26")
async def test_a_list_of_secrets_never_asks_for_their_data() -> None:
    session = MemorySession(
        {"secrets": [{"metadata": {"name": "db", "namespace": "default"}, "cells": ["db", "Opaque", 2, "3d"]}]},
        columns=Columns(("Name", "Type", "Data", "Age")),
    )
    answer = await call("list_secrets", {"namespace": "default"}, session)
    assert answer["secrets"] == [{"name": "db", "namespace": "default", "type": "Opaque", "entries": 2, "age": "3d"}]
    assert [verb for verb, _, _ in session.asked] == ["table"]


@pytest.mark.req("I7.1")
async def test_any_kind_is_listed_in_the_clusters_own_columns() -> None:
    session = MemorySession(
        {
            "widgets": [
                {"metadata": {"name": f"w{index}", "namespace": "a"}, "cells": [f"w{index}", "ok", "token=CANARY"]}
                for index in range(2)
            ]
        },
        columns=Columns(("Name", "Phase", "Detail"), frozenset({2})),
    )
    one = await call("list_resources", {"kind": "widgets", "namespace": "a"}, session, kind=WIDGETS)
    assert (one["columns"], one["rows"]) == (["Name", "Phase"], [["w0", "ok"], ["w1", "ok"]])
    wide = {"kind": "widgets", "all_namespaces": True, "wide": True}
    every = await call("list_resources", wide, session, ("",), kind=WIDGETS)
    assert every["columns"] == ["Namespace", "Name", "Phase", "Detail"]
    assert every["rows"][0] == ["a", "w0", "ok", "token=[redacted]"]


@pytest.mark.req("R14", "R10")
async def test_namespaces_listed_as_any_kind_are_just_those_that_were_decided() -> None:
    session = MemorySession(
        {"namespaces": [{"metadata": {"name": name}, "cells": [name]} for name in ("a", "b", "c")]},
        columns=Columns(("Name",)),
    )
    answer = await call("list_resources", {"kind": "ns"}, session, ("a", "c"), kind=NAMESPACES)
    assert answer["rows"] == [["a"], ["c"]]


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
async def test_running_pods_have_nothing_to_diagnose_and_what_may_not_be_seen_is_named() -> None:
    session = MemorySession({"pods": [pod("web-1", status={"containerStatuses": containers(RUNNING)})]})
    place = {"name": "web-1", "namespace": "default"}
    answer = await call("diagnose", place, session, granted=frozenset())
    assert (answer["healthy"], answer["findings"]) == (True, [])
    assert [line.partition(":")[0] for line in answer["not_shown"]] == ["events", "its node", "logs"]
    assert [verb for verb, _, _ in session.asked] == ["get"]


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
