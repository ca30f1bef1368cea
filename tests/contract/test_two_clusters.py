"""Two embedded clusters behind one gate: each call reaches the one that it names, by the rights it has there."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from services.authz.policy.parse import parse_policy
from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import EMBEDDED_KINDS, EMBEDDED_NAMESPACES
from services.common.errors import NotFound
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.confirmation import Asking, ConfirmationNeeded, ConfirmationRefused, Way
from services.mcp_core.errors import ActionDenied, ClusterDenied
from services.mcp_core.tools import REGISTRY
from tests.contract.kube import Authority, dev_cluster
from tests.unit.mcp_core.edge.fakes import World

POLICIES = {
    "east": 'roles: [{name: r, permissions: ["k8s:*"]}]',
    "west": 'roles: [{name: r, permissions: ["k8s:pods:*", "k8s:deployments:list"]}]',
}
"""What `kubegate cluster rbac` was run with for each; the gate's own policy allows everything."""

REST = Asking(Way.TOKEN)
TOOLS = ("list_pods", "scale_deployment", "delete_pod", "list_deployments", "get_resource")


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        clusters = []
        for name, policy in POLICIES.items():
            authority = Authority(tmp_path_factory.mktemp(name))
            rbac = cluster_rbac(parse_policy(policy.encode()), EMBEDDED_NAMESPACES, kinds=EMBEDDED_KINDS)
            address = await stack.enter_async_context(dev_cluster(authority, rbac))
            settings = replace(authority.settings(address), name=name)
            opened = await KubernetesCluster.open(settings)
            stack.push_async_callback(opened.close)
            clusters.append(opened)
        made = World(tools=tuple(REGISTRY[name] for name in TOOLS), first=clusters[0], further=tuple(clusters[1:]))
        yield made


async def call(world: World, tool: str, cluster: str, asking: Asking = REST, **arguments: Any) -> Any:
    caller = await world.caller()
    arguments = {"namespace": "default", "cluster": cluster, **arguments}
    return (await world.pipeline.call(caller, tool, arguments, asking)).structured


async def wanted(world: World, cluster: str) -> int:
    found = (await call(world, "list_deployments", cluster))["deployments"]
    return int(next(one["replicas"] for one in found if one["name"] == "nginx"))


@pytest.mark.req("I7.1", "R2")
async def test_a_change_reaches_the_cluster_that_it_names_and_no_other(world: World) -> None:
    before = await wanted(world, "west")
    await call(world, "scale_deployment", "east", name="nginx", replicas=before + 3)
    assert (await wanted(world, "east"), await wanted(world, "west")) == (before + 3, before)
    # The cluster's own rights are those that were applied there.
    with pytest.raises(ClusterDenied):
        await call(world, "scale_deployment", "west", name="nginx", replicas=before + 3)
    assert await wanted(world, "west") == before
    assert world.audit.last.metadata["cluster"] == "west"


@pytest.mark.req("I7.1", "R16")
async def test_a_pod_of_one_cluster_is_not_deleted_by_a_yes_for_the_other(world: World) -> None:
    pods = {
        cluster: [one["name"] for one in (await call(world, "list_pods", cluster))["pods"]]
        for cluster in ("east", "west")
    }
    name = pods["east"][0]
    with pytest.raises(ConfirmationNeeded) as asked:
        await call(world, "delete_pod", "east", name=name)
    with pytest.raises((ConfirmationRefused, NotFound)):
        await call(world, "delete_pod", "west", name=name, confirm=asked.value.token)
    assert [one["name"] for one in (await call(world, "list_pods", "west"))["pods"]] == pods["west"]
    await call(world, "delete_pod", "east", name=name, confirm=asked.value.token)


@pytest.mark.req("I7.1", "R14")
async def test_no_cluster_stands_in_for_one_that_there_is_not(world: World) -> None:
    with pytest.raises(ActionDenied):
        await call(world, "list_pods", "north")
    assert world.audit.last.metadata["cluster"] == "north"
