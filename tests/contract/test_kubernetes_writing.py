"""The writing tools against the real process of the embedded cluster: what it previews, and what changes."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from services.authz.policy.parse import parse_policy
from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import EMBEDDED_KINDS, EMBEDDED_NAMESPACES
from services.common.deadline import Deadline
from services.common.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.planning import PatchPlan
from tests.contract.kube import Authority, dev_cluster
from tests.fakes.rig import Rig

CANARY = "cAnArY-of-writing"
POLICY = """
roles:
  - {name: admin, permissions: ["k8s:*"]}
  - {name: scaler, permissions: ["k8s:deployments:scale"], namespaces: [default]}
  - {name: evictor, permissions: ["k8s:pods:evict"], namespaces: [default]}
  - {name: restarter, permissions: ["k8s:deployments:restart"], namespaces: [default]}
  - {name: creator, permissions: ["k8s:configmaps:create"], namespaces: [default]}
  - {name: secrets, permissions: ["k8s:secrets:manage"], namespaces: [default]}
  - {name: cordoner, permissions: ["k8s:nodes:cordon"]}
"""


def workload(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """A workload of one container in `default`."""
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            },
            **spec,
        },
    }


OBJECTS = [
    workload("Deployment", "web", replicas=2),
    workload("Deployment", "guarded", replicas=2),
    workload("StatefulSet", "db", serviceName="db", replicas=1),
    workload("DaemonSet", "agent"),
    {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "guarded", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "guarded"}}},
    },
]
PLACE: dict[str, Any] = {"namespace": "default"}
WEB: dict[str, Any] = {"name": "web", "namespace": "default"}


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    authority = Authority(tmp_path_factory.mktemp("writing"))
    rbac = cluster_rbac(parse_policy(POLICY.encode()), EMBEDDED_NAMESPACES, kinds=EMBEDDED_KINDS)
    async with dev_cluster(authority, [*rbac, *OBJECTS]) as address:
        opened = await KubernetesCluster.open(authority.settings(address))
        yield Rig(opened)
        await opened.close()


async def settled(rig: Rig, name: str = "web", kind: str = "deployment") -> list[str]:
    """The pods of a workload once it is rolled out. The test's own time-out ends the wait."""
    while (await rig.call("rollout_status", name=name, kind=kind, **PLACE))["status"] != "complete":
        await asyncio.sleep(0.05)
    pods = (await rig.call("list_pods", label_selector=f"app={name}", **PLACE))["pods"]
    return [pod["name"] for pod in pods if pod["status"] == "Running"]


async def look(rig: Rig, tool: str, **arguments: Any) -> dict[str, Any]:
    return await rig.call(tool, dry_run=True, **arguments)


@pytest.mark.req("I8.2")
async def test_a_preview_shows_what_the_cluster_would_do_and_changes_nothing(rig: Rig) -> None:
    await settled(rig)
    seen = await look(rig, "scale_deployment", **WEB, replicas=0)
    assert seen["changes"] == [{"path": "spec.replicas", "before": 2, "after": 0}]
    assert seen["needs_confirmation"]
    seen = await look(rig, "set_image", **WEB, image="app:2")
    assert seen["changes"] == [
        {"path": "spec.template.spec.containers[app].image", "before": "app:1", "after": "app:2"}
    ]
    assert not seen["needs_confirmation"]
    manifest = {"metadata": {"name": "fresh"}, "spec": {"ports": [{"port": 80}]}}
    seen = await look(rig, "create_resource", kind="services", manifest=manifest, **PLACE)
    (spec,) = [one["after"] for one in seen["changes"] if one["path"] == "spec"]
    assert spec["type"] == "ClusterIP", "as the cluster itself fills it in"
    with pytest.raises(NotFound):
        await rig.call("get_service", name="fresh", **PLACE)
    for tool in ("restart_deployment", "scale_deployment"):
        await look(rig, tool, **WEB, **({"replicas": 5} if tool.startswith("scale") else {}))
    state = await rig.call("get_deployment", **WEB)
    assert (state["replicas"], state["images"], state["revision"]) == (2, ["app:1"], "1")


@pytest.mark.req("I8.2")
async def test_every_writing_tool_has_a_preview() -> None:
    for name, tool in REGISTRY.items():
        assert (tool.prepare is not None) is not tool.read_only, name
        assert ("dry_run" in tool.input_schema["properties"]) is not tool.read_only, name


@pytest.mark.req("I8.1")
async def test_a_workload_gets_an_image_and_is_rolled_back(rig: Rig) -> None:
    await rig.call("set_image", **WEB, image="app:9")
    await settled(rig)
    assert (await rig.call("get_deployment", **WEB))["images"] == ["app:9"]
    seen = await look(rig, "rollout_undo", **WEB)
    assert seen["needs_confirmation"]
    assert seen["changes"] == [
        {"path": "spec.template.spec.containers[app].image", "before": "app:9", "after": "app:1"}
    ]
    await rig.call("rollout_undo", **WEB)
    await settled(rig)
    assert (await rig.call("get_deployment", **WEB))["images"] == ["app:1"]
    with pytest.raises(NotFound, match="no revision 77"):
        await rig.call("rollout_undo", **WEB, to_revision=77)
    with pytest.raises(InvalidArgument, match="no container 'sidecar'; there are: app"):
        await rig.call("set_image", **WEB, image="app:3", container="sidecar")


@pytest.mark.req("I8.1")
@pytest.mark.parametrize(("kind", "name"), [("statefulset", "db"), ("daemonset", "agent")])
async def test_other_workloads_likewise(rig: Rig, kind: str, name: str) -> None:
    which: dict[str, Any] = {"name": name, "kind": kind, **PLACE}
    before = await settled(rig, name, kind)
    await rig.call("set_image", **which, image="app:9")
    while len(history := (await rig.call("rollout_history", **which))["revisions"]) < 2:
        await asyncio.sleep(0.05)
    assert [(one["revision"], one["images"], one["current"]) for one in history] == [
        (2, ["app:9"], True),
        (1, ["app:1"], False),
    ]
    await rig.call("rollout_undo", **which)
    while (await rig.call("rollout_history", **which))["revisions"][0]["images"] != ["app:1"]:
        await asyncio.sleep(0.05)
    await rig.call("restart_deployment", **which)
    if kind == "statefulset":
        await rig.call("scale_deployment", **which, replicas=2)
        while len(await settled(rig, name, kind)) != len(before) + 1:
            await asyncio.sleep(0.05)


@pytest.mark.req("I8.1")
async def test_a_restart_replaces_every_pod(rig: Rig) -> None:
    before = await settled(rig)
    await rig.call("restart_deployment", role="restarter", **WEB)
    while set(await settled(rig)) & set(before):
        await asyncio.sleep(0.05)


@pytest.mark.req("I8.1")
async def test_an_eviction_asks_the_budget(rig: Rig) -> None:
    held = await settled(rig, "guarded")
    with pytest.raises(FailedPrecondition, match="PodDisruptionBudget does not allow"):
        await rig.call("evict_pod", role="evictor", name=held[0], **PLACE)
    free = await settled(rig)
    await rig.call("evict_pod", role="evictor", name=free[0], **PLACE)
    while free[0] in await settled(rig):
        await asyncio.sleep(0.05)


@pytest.mark.req("I8.1", "R26")
async def test_secrets_are_written_and_never_shown(rig: Rig) -> None:
    which: dict[str, Any] = {"name": "made", **PLACE}
    said = [
        await look(rig, "create_secret", **which, data={"password": CANARY}),
        await rig.call("create_secret", role="secrets", **which, data={"password": CANARY, "old": "x"}),
        await look(rig, "update_secret", **which, data={"password": f"{CANARY}2", "old": None}),
        await rig.call("update_secret", role="secrets", **which, data={"password": f"{CANARY}2", "old": None}),
        await look(rig, "patch_resource", kind="secrets", **which, patch={"stringData": {"password": f"{CANARY}3"}}),
        await look(rig, "delete_secret", **which),
    ]
    assert CANARY not in json.dumps(said)
    assert said[2]["changes"] == [
        {"path": "data.password", "before": "[redacted]", "after": "[redacted]"},
        {"path": "data.old", "before": "[redacted]", "after": None},
    ]
    assert (await rig.call("get_secret", **which))["bytes"] == {"password": len(CANARY) + 1}
    with pytest.raises(AlreadyExists):
        await rig.call("create_secret", role="secrets", **which, data={"a": "b"})
    with pytest.raises(InvalidArgument, match=r"`data\.a` is not base64"):
        await rig.call("update_secret", **which, data={"a": "%%"}, encoding="base64")
    for kind in ("kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"):
        with pytest.raises(InvalidArgument, match="not made here"):
            await rig.call("create_secret", name="token", data={}, type=kind, **PLACE)
        manifest = {"metadata": {"name": "token"}, "type": kind}
        with pytest.raises(InvalidArgument, match="not made here"):
            await rig.call("apply_resource", kind="Secret", manifest=manifest, **PLACE)
    await rig.call("delete_secret", role="secrets", **which)
    with pytest.raises(NotFound):
        await rig.call("get_secret", **which)


@pytest.mark.req("I8.1")
async def test_apply_says_who_owns_what_and_takes_over_only_when_told(rig: Rig) -> None:
    settings = {"metadata": {"name": "applied"}, "data": {"mode": "slow", "size": "1"}}
    await rig.call("apply_resource", kind="cm", manifest=settings, **PLACE)
    yaml = "metadata:\n  name: applied\ndata:\n  mode: fast\n"
    seen = await look(rig, "apply_resource", kind="cm", manifest=yaml, **PLACE)
    assert seen["changes"] == [
        {"path": "data.mode", "before": "slow", "after": "fast"},
        {"path": "data.size", "before": "1", "after": None},
    ]
    assert not seen["needs_confirmation"]
    template = workload("Deployment", "web")["spec"]["template"]
    template["spec"]["containers"][0]["image"] = "app:5"
    deployment = {"metadata": {"name": "guarded"}, "spec": {"replicas": 2, "template": template}}
    template["metadata"]["labels"] = {"app": "guarded"}
    which: dict[str, Any] = {"kind": "Deployment", "manifest": deployment, **PLACE}
    with pytest.raises(Conflict, match=r"image is owned by dev-cluster.*set `force: true`"):
        await rig.call("apply_resource", **which)
    seen = await look(rig, "apply_resource", **which, force=True)
    assert seen["needs_confirmation"]
    assert "takes over" in seen["summary"]
    # What was scaled through here is ours: no conflict with ourselves.
    await rig.call("scale_deployment", **WEB, replicas=3)
    seen = await look(rig, "apply_resource", kind="deploy", manifest={**WEB_SPEC, "spec": {"replicas": 2}}, **PLACE)
    assert [one["path"] for one in seen["changes"]] == ["spec.replicas"]
    await rig.call("scale_deployment", **WEB, replicas=2)


WEB_SPEC: dict[str, Any] = {"metadata": {"name": "web"}}


@pytest.mark.req("I8.1")
async def test_a_custom_kind_is_made_changed_and_deleted(rig: Rig) -> None:
    kind, name = EMBEDDED_KINDS[0], "nightly"
    manifest = {"metadata": {"name": name, "labels": {"team": "a"}}, "spec": {"schedule": "@daily", "volume": "v"}}
    made = await rig.call("create_resource", kind=kind, manifest=manifest, **PLACE)
    assert made["kind"] == "Backup"
    patch: Any = [{"op": "replace", "path": "/metadata/labels/team", "value": "b"}]
    seen = await look(rig, "patch_resource", kind=kind, name=name, type="json", patch=patch, **PLACE)
    assert seen["changes"] == [{"path": "metadata.labels.team", "before": "a", "after": "b"}]
    await rig.call("patch_resource", kind=kind, name=name, type="json", patch=patch, **PLACE)
    gone = await rig.call("delete_resource", kind=kind, name=name, **PLACE)
    assert "wait_for" in gone["message"]
    with pytest.raises(NotFound):
        await rig.call("get_resource", kind=kind, name=name, **PLACE)


@pytest.mark.req("I8.6")
async def test_what_changed_since_it_was_looked_at_is_not_overwritten(rig: Rig) -> None:
    await settled(rig)
    label = {"metadata": {"labels": {"a": "b"}}}
    applied = {"metadata": {"name": "web", "labels": {"a": "c"}}}
    image = {"op": "replace", "path": "/spec/template/spec/containers/0/image"}
    note = {"op": "add", "path": "/metadata/annotations/note"}
    # The tool, and what happens between its look and its act.
    calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("scale_deployment", {**WEB, "replicas": 0}, note),
        ("delete_resource", {**WEB, "kind": "deploy"}, note),
        ("rollout_undo", WEB, note),
        ("apply_resource", {**PLACE, "kind": "deploy", "manifest": applied}, note),
        ("patch_resource", {**WEB, "kind": "deploy", "patch": label}, {"op": "add", "path": "/metadata/labels"}),
        ("set_image", {**WEB, "image": "app:7"}, image),
    ]
    for number, (tool, arguments, change) in enumerate(calls):
        invocation, plan = await rig.look(tool, **arguments)
        assert plan.resource_version, tool
        value = {"a": f"x{number}"} if change["path"] == "/metadata/labels" else f"app:{number}"
        patch: Any = [{**change, "value": value}]
        await rig.call("patch_resource", kind="deploy", **WEB, type="json", patch=patch)
        with pytest.raises(Conflict):
            await REGISTRY[tool].run(replace(invocation, plan=plan))
    # What was not there when it was looked at, and what is another by now, are left as they are.
    new: dict[str, Any] = {"metadata": {"name": "appears"}, "data": {"a": "applied"}}
    invocation, plan = await rig.look("apply_resource", kind="cm", manifest=new, **PLACE)
    await rig.call("create_resource", kind="cm", manifest=new | {"data": {"b": "theirs"}}, **PLACE)
    with pytest.raises(Conflict):
        await REGISTRY["apply_resource"].run(replace(invocation, plan=plan))
    invocation, plan = await rig.look("apply_resource", kind="cm", manifest=new, **PLACE)
    await rig.call("delete_resource", kind="cm", name="appears", **PLACE)
    with pytest.raises(Conflict):
        await REGISTRY["apply_resource"].run(replace(invocation, plan=plan))
    with pytest.raises(NotFound):
        await rig.call("get_resource", kind="cm", name="appears", **PLACE)
    await rig.call("set_image", **WEB, image="app:1")
    # What changed beside it is no hindrance, unless somebody has confirmed what was there.
    invocation, plan = await rig.look("patch_resource", kind="deploy", **WEB, patch=label)
    await rig.call("patch_resource", kind="deploy", **WEB, type="json", patch=[{**note, "value": "y"}])
    await REGISTRY["patch_resource"].run(replace(invocation, plan=plan))
    with pytest.raises(Conflict, match="its resourceVersion is"):
        await rig.call("patch_resource", kind="deploy", **WEB, patch={"spec": {"paused": True}}, resource_version="1")
    state = await rig.call("get_deployment", **WEB)
    assert (state["replicas"], state["images"]) == (2, ["app:1"])


@pytest.mark.req("I8.6", "R26")
async def test_another_value_of_a_secret_is_another_change_though_it_looks_the_same(rig: Rig) -> None:
    def patch(value: str) -> dict[str, Any]:
        return {"stringData": None, "data": {"password": base64.b64encode(value.encode()).decode()}}

    which: dict[str, Any] = {"name": "turned", **PLACE}
    await rig.call("create_secret", **which, data={"password": "first"})
    secret: dict[str, Any] = {**which, "kind": "secrets"}
    invocation, plan = await rig.look("patch_resource", **secret, patch=patch("wanted"))
    assert isinstance(plan, PatchPlan)
    await rig.call("update_secret", **which, data={"password": "between"})
    assert plan.again is not None
    now = await plan.again()
    assert now.changes == plan.changes, "both are shown as redacted"
    assert not now.same_as(plan)
    with pytest.raises(Conflict):
        await REGISTRY["patch_resource"].run(replace(invocation, plan=plan))


@pytest.mark.req("I8.11")
async def test_a_change_that_waits_answers_when_its_pods_are_there(rig: Rig) -> None:
    await settled(rig)
    for tool, arguments in (("restart_deployment", {}), ("set_image", {"image": "app:8"}), ("rollout_undo", {})):
        answer = await rig.call(tool, **WEB, **arguments, wait=20)
        assert answer["rollout"]["complete"], (tool, answer)
    answer = await rig.call("scale_deployment", name="db", kind="statefulset", replicas=2, wait=20, **PLACE)
    assert answer["rollout"]["complete"], answer
    await rig.call("scale_deployment", name="db", kind="statefulset", replicas=1, wait=20, **PLACE)


@pytest.mark.req("I8.9")
async def test_a_node_is_closed_drained_and_opened(rig: Rig) -> None:
    node = (await rig.call("list_nodes"))["nodes"][0]["name"]
    await rig.call("cordon_node", role="cordoner", name=node)
    assert (await rig.call("list_nodes"))["nodes"][0]["status"] == "Ready,SchedulingDisabled"
    seen = await look(rig, "drain_node", name=node)
    _, plan = await rig.look("drain_node", name=node)
    assert plan.confirm
    assert {str(need.permission) for need in plan.needs} == {"k8s:pods:evict"}
    assert {need.namespace for need in plan.needs} >= {"default", "production"}
    assert any("agent" in note for note in seen["notes"]), "a DaemonSet's pods stay"
    lone = {"metadata": {"name": "lone"}, "spec": {"containers": [{"name": "a", "image": "a:1"}], "nodeName": node}}
    await rig.call("create_resource", kind="pods", manifest=lone, **PLACE)
    with pytest.raises(FailedPrecondition, match="default/lone"):
        await rig.call("drain_node", name=node)
    invocation, plan = await rig.look("drain_node", name=node, force=True)
    drained = await REGISTRY["drain_node"].run(replace(invocation, plan=plan, deadline=Deadline.after(6)))
    # A budget allows one of its pods to go only when another is ready, which none can be here.
    assert not drained["complete"]
    assert drained["blocked"], drained
    assert all("guarded" in place for place in drained["blocked"])
    assert "default/lone" in drained["gone"]
    await rig.call("uncordon_node", role="cordoner", name=node)
    await settled(rig)


@pytest.mark.req("R2", "I8.1")
@pytest.mark.parametrize(
    ("role", "tool", "arguments"),
    [
        ("scaler", "set_image", {**WEB, "image": "app:2"}),
        ("scaler", "delete_resource", {**WEB, "kind": "deploy"}),
        ("creator", "apply_resource", {**PLACE, "kind": "cm", "manifest": {"metadata": {"name": "x"}}}),
        ("creator", "create_secret", {"name": "x", "data": {}, **PLACE}),
        ("evictor", "restart_deployment", WEB),
        ("cordoner", "scale_deployment", {**WEB, "replicas": 1}),
    ],
)
async def test_the_clusters_own_rules_give_each_permission_no_more_than_it_needs(
    rig: Rig, role: str, tool: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ClusterDenied):
        await rig.call(tool, role=role, **arguments)


@pytest.mark.req("R2", "I8.1")
async def test_and_no_less(rig: Rig) -> None:
    await rig.call("scale_deployment", role="scaler", **WEB, replicas=3)
    patch = {"spec": {"replicas": 2}}
    await rig.call("patch_resource", role="scaler", kind="deployments", **WEB, patch=patch)
    await rig.call(
        "create_resource", role="creator", kind="configmaps", manifest={"metadata": {"name": "by-creator"}}, **PLACE
    )
