"""The reading tools against the real process of the embedded cluster, impersonating, under the RBAC of the policy."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import EMBEDDED_KINDS, EMBEDDED_NAMESPACES
from services.cli.policy import load
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied
from services.mcp_core.ports import ObjectRef
from services.mcp_core.tools.pod_view import Pod
from services.mcp_core.tools.pods import PODS
from tests.contract.kube import Authority, caller, dev_cluster, soon
from tests.fakes.rig import Rig

POLICY = Path(__file__).parents[1] / "golden" / "rbac-policies.yaml"
CANARY = "cAnArYx9Qz77"


def workload(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "image": "app:1", "env": [{"name": "API_TOKEN", "value": CANARY}]}]},
    }
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "staging"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }


JOB = workload("Job", "once")
JOB["spec"]["template"]["spec"]["restartPolicy"] = "Never"
del JOB["spec"]["selector"]
MANIFESTS = [
    workload("StatefulSet", "db", replicas=2, serviceName="db"),
    workload("DaemonSet", "agent"),
    JOB,
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hidden", "namespace": "staging"},
        "stringData": {"password": CANARY},
    },
    *(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"settings-{index:03}", "namespace": "feature-x"},
            "data": {"password": CANARY, "mode": "fast"},
        }
        for index in range(130)
    ),
]


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    authority = Authority(tmp_path_factory.mktemp("reading"))
    rbac = cluster_rbac(load(POLICY), EMBEDDED_NAMESPACES, kinds=EMBEDDED_KINDS)
    async with dev_cluster(authority, [*rbac, *MANIFESTS]) as address:
        opened = await KubernetesCluster.open(authority.settings(address))
        yield Rig(opened)
        await opened.close()


@pytest.mark.req("I7.1", "I7.5")
async def test_a_custom_kind_is_found_listed_read_explained_and_waited_for(rig: Rig) -> None:
    listed = await rig.call("list_resources", kind="bak", all_namespaces=True)
    assert listed["kind"] == "Backup"
    assert listed["columns"][:4] == ["Namespace", "Name", "Schedule", "Phase"]
    assert [row[:3] for row in listed["rows"]] == [
        ["development", "orders", "0 4 * * 0"],
        ["production", "orders", "0 3 * * *"],
    ]
    place = {"kind": "backups.demo.example.com", "name": "orders", "namespace": "production"}
    got = await rig.call("get_resource", **place, fields=["spec.keep", "spec.volume"])
    assert got["object"] == {"spec.keep": 7, "spec.volume": "orders-data"}
    told = await rig.call("explain_resource", kind="Backup", path="spec")
    assert {field["name"]: field["required"] for field in told["fields"]} == {
        "keep": False,
        "schedule": True,
        "volume": True,
    }
    definition = {"kind": "crd", "name": "backups.demo.example.com", "condition": "Established"}
    assert (await rig.call("wait_for", **definition))["met"]
    with pytest.raises(ClusterDenied):
        await rig.call("list_resources", "viewer", kind="backups", namespace="production")


@pytest.mark.req("I7.1")
async def test_every_list_has_the_clusters_columns_and_goes_on(rig: Rig) -> None:
    for kind in ("pods", "sts", "ds", "jobs", "rs", "svc", "ingresses", "roles"):
        answer = await rig.call("list_resources", kind=kind, namespace="staging")
        assert answer["columns"][0] == "Name"
    for kind in ("nodes", "clusterroles", "sc", "ns"):
        assert (await rig.call("list_resources", kind=kind))["columns"][0] == "Name"
    seen: list[str] = []
    more: dict[str, Any] = {}
    while True:
        answer = await rig.call("list_configmaps", namespace="feature-x", **more)
        seen += [one["name"] for one in answer["configmaps"]]
        if not answer["truncated"]:
            break
        assert answer["remaining"] == 130 - len(seen)
        more = {"continue": answer["continue"]}
    assert [name for name in seen if name.startswith("settings")] == [f"settings-{index:03}" for index in range(130)]


@pytest.mark.req("I7.1")
async def test_statefulsets_daemonsets_and_jobs_go_through_the_same_verbs(rig: Rig) -> None:
    for kind, name in (("statefulset", "db"), ("daemonset", "agent")):
        place = {"name": name, "namespace": "staging"}
        waited = await rig.call("wait_for", kind=kind, condition="rolledout", **place)
        assert waited["met"], waited
        assert (await rig.call("rollout_status", kind=kind, **place))["status"] == "complete"
        diagnosis = await rig.call("diagnose", kind=kind, **place)
        assert diagnosis["healthy"], diagnosis
        assert diagnosis["pods"] == {"Running": 2} or sum(diagnosis["pods"].values()) >= 1
    waited = await rig.call("wait_for", kind="job", name="once", namespace="staging", condition="Complete")
    assert waited["met"], waited
    assert "1 succeeded" in (await rig.call("diagnose", kind="job", name="once", namespace="staging"))["rollout"]


@pytest.mark.req("I7.1")
async def test_a_crashing_workload_is_diagnosed_in_one_call(rig: Rig) -> None:
    crashing: list[str] = []
    while not crashing:
        pods = (await rig.call("list_pods", namespace="development"))["pods"]
        crashing = [pod["name"] for pod in pods if pod["status"] == "CrashLoopBackOff"]
        await asyncio.sleep(0.1)
    found = await rig.call("diagnose", name=crashing[0], namespace="development")
    assert not found["healthy"]
    assert "crash" in found["findings"][0]["what"]
    assert found["log"]
    assert found["log_of"].endswith("the run before")
    assert any(event["reason"] == "BackOff" for event in found["events"])
    assert found["node"]["status"] == "Ready"
    whole = await rig.call("diagnose", name="worker", namespace="development", kind="deployment")
    assert any("crash" in finding["what"] for finding in whole["findings"])
    # An operator of the policy may see pods, not nodes: the cluster's own refusal is named, and stops nothing.
    part = await rig.call("diagnose", "operator", name=crashing[0], namespace="development")
    assert any("node" in line for line in part["not_shown"])


@pytest.mark.req("I7.1")
async def test_rollouts_have_a_history(rig: Rig) -> None:
    history = await rig.call("rollout_history", name="nginx", namespace="default")
    assert [(one["revision"], one["images"], one["current"]) for one in history["revisions"]] == [
        (1, ["nginx:1.29"], True)
    ]
    assert (await rig.call("get_deployment", name="nginx", namespace="default"))["rollout"] == "complete"
    service = await rig.call("get_service", name="nginx", namespace="default")
    assert len(service["endpoints"]) == 2


@pytest.mark.req("I7.1", "R26")
async def test_secrets_are_listed_without_their_data_and_shown_without_values(rig: Rig) -> None:
    listed = await rig.call("list_secrets", namespace="staging")
    (hidden,) = [one for one in listed["secrets"] if one["name"] == "hidden"]
    assert (hidden["type"], hidden["entries"]) == ("Opaque", 1)
    place = {"name": "hidden", "namespace": "staging"}
    for answer in (
        listed,
        await rig.call("get_secret", **place),
        await rig.call("get_resource", kind="secret", **place),
        await rig.call("get_resource", kind="sts", name="db", namespace="staging"),
        await rig.call("get_resource", kind="cm", name="settings-001", namespace="feature-x"),
    ):
        assert CANARY not in json.dumps(answer)
    assert (await rig.call("get_secret", **place, reveal=True))["data"] == {"password": CANARY}


@pytest.mark.req("I7.1")
async def test_events_and_nodes(rig: Rig) -> None:
    events = (await rig.call("list_events", namespace="development", type="Warning"))["events"]
    assert events
    assert {event["type"] for event in events} == {"Warning"}
    assert [event["last"] for event in events] == sorted((event["last"] for event in events), reverse=True)
    nodes = (await rig.call("list_nodes"))["nodes"]
    assert {node["status"] for node in nodes} == {"Ready"}


@pytest.mark.req("I7.2")
async def test_one_call_is_one_request_and_selectors_are_the_clusters(rig: Rig) -> None:
    running = await rig.call("list_pods", namespace="development", field_selector="status.phase=Pending")
    assert running["pods"] == []
    with pytest.raises(InvalidArgument, match="cluster says"):
        await rig.call("list_pods", namespace="development", field_selector="spec.nothing=1")
    session = rig.cluster.session(caller("admin"), soon())
    page = await session.list(ObjectRef(PODS), Pod, limit=2)
    again = await session.list(ObjectRef(PODS), Pod, limit=2, after=page.after)
    assert {pod.metadata.name for pod in page.items}.isdisjoint(pod.metadata.name for pod in again.items)


@pytest.mark.req("I7.1")
async def test_what_is_not_there_is_said_in_plain_words(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="no kind 'gadgets'"):
        await rig.call("list_resources", kind="gadgets", namespace="default")
    with pytest.raises(NotFound, match="Names are exact"):
        await rig.call("get_resource", kind="pods", name="gone", namespace="default")
    with pytest.raises(NotFound, match="no field"):
        await rig.call("explain_resource", kind="pods", path="spec.nonsense")
    gone = await rig.call("wait_for", kind="pods", name="gone", namespace="default", condition="deleted")
    assert gone["met"]
    with pytest.raises((FailedPrecondition, InvalidArgument)):
        await rig.call("wait_for", kind="pods", name="x", namespace="default", condition="rolledout")


@pytest.mark.req("I7.1", "I7.5")
async def test_the_hungriest_come_first(rig: Rig) -> None:
    pods = await rig.call("top_pods", namespace="default", limit=1)
    assert (len(pods["pods"]), pods["truncated"]) == (1, True)
    every = (await rig.call("top_pods", all_namespaces=True, sort_by="memory", limit=500))["pods"]
    assert [pod["memory_mib"] for pod in every] == sorted((pod["memory_mib"] for pod in every), reverse=True)
    assert {pod["namespace"] for pod in every} >= {"default", "development", "staging"}
    nodes = (await rig.call("top_nodes"))["nodes"]
    assert nodes
    assert all(node["cpu_millicores"] > 0 and node["memory_percent"] > 0 for node in nodes)
    with pytest.raises(ClusterDenied):
        await rig.call("top_nodes", "viewer")
