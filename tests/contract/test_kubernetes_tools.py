"""Every tool against the real process of the embedded cluster, impersonating, with the RBAC that the policy prints."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import EMBEDDED_NAMESPACES
from services.cli.policy import load
from services.common.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied
from services.mcp_core.ports import ObjectRef
from services.mcp_core.tools.namespaces import existing_namespaces
from services.mcp_core.tools.pod_view import Pod
from services.mcp_core.tools.pods import PODS
from tests.contract.kube import Authority, caller, dev_cluster, soon
from tests.fakes.rig import Rig

POLICY = Path(__file__).parents[1] / "golden" / "rbac-policies.yaml"

LONE_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "lone", "namespace": "staging"},
    "spec": {"containers": [{"name": "app", "image": "busybox:1.37"}]},
}


WEB = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "development", "labels": {"app": "web"}},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx:1.29"}]},
        },
    },
}


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubernetesCluster]:
    authority = Authority(tmp_path_factory.mktemp("dev-cluster"))
    rbac = cluster_rbac(load(POLICY), EMBEDDED_NAMESPACES)
    async with dev_cluster(authority, [*rbac, LONE_POD, WEB]) as address:
        opened = await KubernetesCluster.open(authority.settings(address))
        yield opened
        await opened.close()


async def call(
    cluster: KubernetesCluster,
    name: str,
    arguments: dict[str, Any],
    *,
    role: str = "operator",
    namespaces: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    return await Rig(cluster).call(name, role, namespaces, **arguments)


async def running(cluster: KubernetesCluster, count: int = 1) -> list[dict[str, Any]]:
    """The pods of `web`, once so many of them run and no other is left. The test's own time-out ends the wait."""
    while True:
        arguments = {"namespace": "development", "label_selector": "app=web"}
        pods: list[dict[str, Any]] = (await call(cluster, "list_pods", arguments))["pods"]
        if len(pods) == count and all(pod["status"] == "Running" and pod["ready"] == "1/1" for pod in pods):
            return pods
        await asyncio.sleep(0.05)


async def test_the_cluster_says_its_version(cluster: KubernetesCluster) -> None:
    assert (await cluster.version(soon())).startswith("v1.")


@pytest.mark.req("I2.2")
async def test_namespaces_pods_deployments_and_services_are_listed(cluster: KubernetesCluster) -> None:
    found = await call(cluster, "list_namespaces", {}, role="admin")
    assert {namespace["name"] for namespace in found["namespaces"]} >= set(EMBEDDED_NAMESPACES)
    (pod,) = await running(cluster)
    assert pod["containers"] == ["nginx"]
    assert pod["node"]
    deployments = await call(cluster, "list_deployments", {"namespace": "development"})
    (web,) = [found for found in deployments["deployments"] if found["name"] == "web"]
    assert (web["replicas"], web["ready"], web["images"]) == (1, 1, ["nginx:1.29"])
    services = await call(cluster, "list_services", {"namespace": "default"})
    assert "80/TCP" in next(found for found in services["services"] if found["name"] == "nginx")["ports"]


@pytest.mark.req("R14")
async def test_a_cluster_wide_list_and_a_list_of_some_namespaces(cluster: KubernetesCluster) -> None:
    everywhere = await call(cluster, "list_pods", {"all_namespaces": True}, role="admin", namespaces=("",))
    assert {"default", "production", "kube-system"} <= {pod["namespace"] for pod in everywhere["pods"]}
    some = await call(cluster, "list_pods", {"all_namespaces": True}, namespaces=("default", "staging"))
    assert {pod["namespace"] for pod in some["pods"]} == {"default", "staging"}
    few = await call(cluster, "list_pods", {"all_namespaces": True, "limit": 2}, role="admin", namespaces=("",))
    assert (len(few["pods"]), few["truncated"]) == (2, True)


@pytest.mark.req("I2.2")
async def test_scaling_leads_to_that_many_running_pods(cluster: KubernetesCluster) -> None:
    await running(cluster)
    arguments = {"name": "web", "namespace": "development"}
    scaled = await call(cluster, "scale_deployment", {**arguments, "replicas": 3}, role="developer")
    assert (scaled["replicas"], scaled["current_replicas"]) == (3, 1)
    await running(cluster, 3)
    await call(cluster, "scale_deployment", {**arguments, "replicas": 1}, role="developer")
    await running(cluster)


@pytest.mark.req("I2.2")
async def test_logs_are_lines(cluster: KubernetesCluster) -> None:
    (pod,) = await running(cluster)
    arguments = {"name": pod["name"], "namespace": "development", "tail_lines": 3}
    log = await call(cluster, "get_pod_logs", arguments, role="viewer")
    assert 0 < len(log["lines"]) <= 3
    assert all(log["lines"])
    with pytest.raises(InvalidArgument, match="container"):
        await call(cluster, "get_pod_logs", {**arguments, "container": "other"})
    with pytest.raises(InvalidArgument, match="previous terminated container"):
        await call(cluster, "get_pod_logs", {**arguments, "previous": True})


@pytest.mark.req("I2.2")
async def test_a_restarted_pod_comes_back_under_a_new_name(cluster: KubernetesCluster) -> None:
    (pod,) = await running(cluster)
    restarted = await call(cluster, "restart_pod", {"name": pod["name"], "namespace": "development"})
    assert restarted["controller"].startswith("ReplicaSet/web-")
    while (again := await running(cluster)) == [pod]:
        await asyncio.sleep(0.05)
    assert again[0]["name"] != pod["name"]


async def test_a_pod_of_the_same_name_but_another_is_not_deleted(cluster: KubernetesCluster) -> None:
    (pod,) = await running(cluster)
    session = cluster.session(caller("operator"), soon())
    with pytest.raises(Conflict):
        await session.delete(ObjectRef(PODS, "development", pod["name"]), uid="00000000-0000-0000-0000-000000000000")
    assert (await session.get(ObjectRef(PODS, "development", pod["name"]), Pod)).metadata.name == pod["name"]


@pytest.mark.req("I2.2")
async def test_a_lone_pod_is_not_restarted_but_deleted(cluster: KubernetesCluster) -> None:
    lone = {"name": "lone", "namespace": "staging"}
    with pytest.raises(FailedPrecondition, match="no controller"):
        await call(cluster, "restart_pod", lone)
    await call(cluster, "delete_pod", lone)
    while True:
        try:
            await call(cluster, "restart_pod", lone)
        except NotFound:
            break
        except FailedPrecondition:
            await asyncio.sleep(0.05)


@pytest.mark.req("R2", "I2.9")
@pytest.mark.parametrize(
    ("role", "name", "arguments"),
    [
        ("viewer", "scale_deployment", {"name": "nginx", "namespace": "default", "replicas": 5}),
        ("viewer", "list_pods", {"namespace": "production"}),
        ("viewer", "list_namespaces", {}),
        ("developer", "restart_deployment", {"name": "web", "namespace": "development"}),
        ("nobody", "list_pods", {"namespace": "default"}),
    ],
)
async def test_the_cluster_denies_by_default_and_says_that_it_was_the_cluster(
    cluster: KubernetesCluster, role: str, name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ClusterDenied, match="the cluster's own RBAC refuses"):
        await call(cluster, name, arguments, role=role)


@pytest.mark.req("R2")
async def test_the_cores_own_account_lists_namespaces_and_nothing_else(cluster: KubernetesCluster) -> None:
    own = cluster.session(None, soon())
    assert set(EMBEDDED_NAMESPACES) <= set(await existing_namespaces(own))
    with pytest.raises(ClusterDenied):
        await own.list(ObjectRef(PODS, "default"), Pod)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_pod_logs", {"name": "gone", "namespace": "default"}),
        ("restart_pod", {"name": "gone", "namespace": "default"}),
        ("delete_pod", {"name": "gone", "namespace": "default"}),
        ("scale_deployment", {"name": "gone", "namespace": "default", "replicas": 1}),
    ],
)
async def test_what_is_not_there_is_said_to_be_not_there(
    cluster: KubernetesCluster, name: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(NotFound, match="gone"):
        await call(cluster, name, arguments)


async def test_a_malformed_selector_is_the_callers_mistake(cluster: KubernetesCluster) -> None:
    with pytest.raises(InvalidArgument):
        await call(cluster, "list_pods", {"namespace": "default", "label_selector": "a in ("})
