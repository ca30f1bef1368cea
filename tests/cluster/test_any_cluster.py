"""The tools against any cluster: the embedded one, or that of `make test-cluster KUBECONFIG=...` (I7.5).

It needs nothing but an administrator's kubeconfig, which may impersonate. It creates namespaces, a custom kind and the
cluster's side of a policy under names of its own, and removes them all.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.authz.policy.parse import parse_policy
from services.cli.cluster_rbac import CORE, DIRECT, cluster_rbac
from services.common.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound
from services.mcp_core.adapters.kubeconfig import ClusterSettings
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied
from services.mcp_core.tools import REGISTRY
from tests.contract.kube import Authority, dev_cluster
from tests.fakes.rig import Rig

GIVEN = os.environ.get("KUBEGATE_TEST_KUBECONFIG", "")
KUBECTL = str(Path(sys.executable).with_name("kubectl"))
IMAGE = "registry.k8s.io/pause:3.10"
CANARY = "cAnArYany7Zx"
MINE = secrets.token_hex(3)
SPACE, OTHER = f"kg-test-{MINE}", f"kg-other-{MINE}"
GROUP = f"t{MINE}.example.com"
READER, WRITER = f"t{MINE}-reader", f"t{MINE}-writer"

POLICY = f"""
roles:
  - name: {READER}
    permissions: ["k8s:pods:list", "k8s:pods:logs", "k8s:events:list", "k8s:deployments:list", "k8s:replicasets:list"]
    namespaces: [{SPACE}]
  - name: {WRITER}
    permissions: ["k8s:*"]
"""


def manifests() -> list[dict[str, Any]]:
    """What the tools look at."""

    def workload(kind: str, name: str, image: str = IMAGE, **spec: Any) -> dict[str, Any]:
        env = [{"name": "API_TOKEN", "value": CANARY}]
        container = {"name": "app", "image": image, "env": env}
        template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
        return {
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": SPACE},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
        }

    place = {"namespace": SPACE}
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer", "description": "In mm."}}}
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (SPACE, OTHER)),
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"gauges.{GROUP}"},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {"kind": "Gauge", "plural": "gauges", "singular": "gauge"},
                "versions": [version],
            },
        },
        workload("Deployment", "web", replicas=2),
        workload("Deployment", "broken", image="registry.invalid/does-not-exist:1"),
        workload("StatefulSet", "db", serviceName="db"),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", **place},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", **place},
            "data": {"password": CANARY, "mode": "fast"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hidden", **place},
            "stringData": {"password": CANARY},
        },
    ]


GAUGE = {
    "apiVersion": f"{GROUP}/v1",
    "kind": "Gauge",
    "metadata": {"name": "one", "namespace": SPACE},
    "spec": {"size": 3},
}


def rbac() -> list[dict[str, Any]]:
    """The cluster's side of the policy, without what an installed kubegate may have there under the same names."""
    policy = parse_policy(POLICY.encode())
    objects = cluster_rbac(policy, [SPACE, OTHER], kinds=[f"gauges.{GROUP}"])
    return [one for one in objects if one["metadata"]["name"] not in (CORE, DIRECT)]


class Admin:
    """kubectl with the administrator's kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def run(self, *arguments: str, objects: list[dict[str, Any]] | None = None) -> str:
        done = subprocess.run(
            [KUBECTL, "--kubeconfig", str(self.kubeconfig), *arguments],
            input="\n---\n".join(json.dumps(one) for one in objects or ()),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
async def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    if GIVEN:
        yield Path(GIVEN)
        return
    authority = Authority(tmp_path_factory.mktemp("any"))
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "administrator"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": CORE}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    }
    async with dev_cluster(authority, [binding]) as address:
        path = authority.settings(address).kubeconfig
        assert path is not None
        yield path


@pytest.fixture(scope="module")
async def rig(kubeconfig: Path) -> AsyncIterator[Rig]:
    admin = Admin(kubeconfig)
    objects = [*manifests(), *rbac()]
    opened = None
    try:
        admin.run("create", "-f", "-", objects=objects)
        admin.run("wait", "--for=condition=Established", f"crd/gauges.{GROUP}", "--timeout=60s")
        admin.run("create", "-f", "-", objects=[GAUGE])
        opened = await KubernetesCluster.open(ClusterSettings("any", kubeconfig, allow_exec_plugins=bool(GIVEN)))
        yield Rig(opened)
    finally:
        if opened is not None:
            await opened.close()
        admin.run("delete", "--ignore-not-found", "--wait=false", "-f", "-", objects=objects)


async def call(rig: Rig, tool: str, role: str = WRITER, **arguments: Any) -> dict[str, Any]:
    return await rig.call(tool, role, **arguments)


async def settled(rig: Rig, kind: str, name: str) -> None:
    for _ in range(20):
        if (await call(rig, "wait_for", kind=kind, name=name, namespace=SPACE, condition="rolledout"))["met"]:
            return
    raise AssertionError(f"{kind} {name} is not rolled out")


@pytest.mark.req("I7.5")
async def test_workloads_are_listed_followed_and_scaled(rig: Rig) -> None:
    await settled(rig, "deploy", "web")
    await settled(rig, "statefulset", "db")
    pods = await call(rig, "list_pods", namespace=SPACE, label_selector="app=web", fields=["name", "ready"])
    assert [pod["ready"] for pod in pods["pods"]] == ["1/1", "1/1"]
    place = {"name": pods["pods"][0]["name"], "namespace": SPACE}
    assert (await call(rig, "get_pod", **place))["containers"][0]["env"] == {"API_TOKEN": "[redacted]"}
    assert (await call(rig, "diagnose", **place))["healthy"]
    assert (await call(rig, "get_pod_logs", **place))["lines"] is not None
    web = {"name": "web", "namespace": SPACE}
    assert (await call(rig, "get_deployment", **web))["rollout"] == "complete"
    assert [one["revision"] for one in (await call(rig, "rollout_history", **web))["revisions"]] == [1]
    sets = await call(rig, "rollout_history", name="db", namespace=SPACE, kind="statefulset")
    assert sets["kind"] == "statefulset"
    await call(rig, "scale_deployment", **web, replicas=1)
    await settled(rig, "deploy", "web")
    assert (await call(rig, "get_service", **web))["type"] == "ClusterIP"
    assert {one["name"] for one in (await call(rig, "list_deployments", namespace=SPACE))["deployments"]} == {
        "web",
        "broken",
    }
    restarted = await call(rig, "list_pods", namespace=SPACE, label_selector="app=web")
    name = restarted["pods"][0]["name"]
    assert "new name" in (await call(rig, "restart_pod", name=name, namespace=SPACE))["message"]
    assert (await call(rig, "wait_for", kind="pods", name=name, namespace=SPACE, condition="deleted"))["looks"]


@pytest.mark.req("I7.5")
async def test_an_image_that_cannot_be_pulled_is_diagnosed(rig: Rig) -> None:
    found: dict[str, Any] = {"findings": []}
    for _ in range(60):
        found = await call(rig, "diagnose", name="broken", namespace=SPACE, kind="deployment")
        if any("cannot start" in one["what"] for one in found["findings"]):
            break
        await call(rig, "wait_for", kind="deploy", name="broken", namespace=SPACE, condition="Ready", timeout_seconds=1)
    assert any("image" in one["suggestion"] for one in found["findings"]), found
    events = await call(rig, "list_events", namespace=SPACE, type="Warning")
    assert events["events"]


@pytest.mark.req("I7.5", "R26")
async def test_no_secret_comes_out_of_any_kind(rig: Rig) -> None:
    hidden = {"name": "hidden", "namespace": SPACE}
    answers = [
        await call(rig, "list_secrets", namespace=SPACE),
        await call(rig, "get_secret", **hidden),
        await call(rig, "get_resource", kind="Secret", **hidden),
        await call(rig, "get_resource", kind="cm", name="settings", namespace=SPACE),
        await call(rig, "get_resource", kind="deployments.apps", name="web", namespace=SPACE),
        await call(rig, "list_configmaps", namespace=SPACE),
        await call(rig, "list_resources", kind="pods", namespace=SPACE, wide=True),
    ]
    assert CANARY not in json.dumps(answers)
    assert (await call(rig, "get_secret", **hidden, reveal=True))["data"] == {"password": CANARY}


@pytest.mark.req("I7.5")
async def test_custom_kinds_and_kinds_outside_namespaces(rig: Rig) -> None:
    listed = await call(rig, "list_resources", kind=f"gauges.{GROUP}", namespace=SPACE)
    assert [row[0] for row in listed["rows"]] == ["one"]
    one = await call(rig, "get_resource", kind=f"gauge.{GROUP}", name="one", namespace=SPACE, fields=["spec.size"])
    assert one["object"] == {"spec.size": 3}
    assert (await call(rig, "list_nodes"))["nodes"]
    assert (await call(rig, "list_resources", kind="nodes"))["rows"]
    names = [one["name"] for one in (await call(rig, "list_namespaces"))["namespaces"]]
    assert {SPACE, OTHER} <= set(names)
    told = await call(rig, "explain_resource", kind="deployments", path="spec.strategy")
    assert "rollingUpdate" in {field["name"] for field in told["fields"]}
    assert set(REGISTRY) >= {"delete_pod", "list_services"}
    assert (await call(rig, "list_services", namespace=SPACE))["services"]


@pytest.mark.req("I7.5", "I7.3", "R2")
async def test_the_caller_is_impersonated_and_the_clusters_own_refusal_is_said_to_be_the_clusters(rig: Rig) -> None:
    assert (await call(rig, "list_pods", READER, namespace=SPACE))["pods"]
    for tool, arguments in (
        ("list_pods", {"namespace": OTHER}),
        ("list_secrets", {"namespace": SPACE}),
        ("list_nodes", {}),
        ("restart_deployment", {"namespace": SPACE, "name": "web"}),
    ):
        with pytest.raises(ClusterDenied, match="the cluster's own RBAC refuses"):
            await call(rig, tool, READER, **arguments)


@pytest.mark.req("I8.1", "I8.2", "I8.6")
async def test_workloads_and_objects_are_changed_as_previewed(rig: Rig) -> None:
    await settled(rig, "deploy", "web")
    web = {"name": "web", "namespace": SPACE}
    seen = await call(rig, "set_image", **web, image="registry.k8s.io/pause:3.9", dry_run=True)
    path = "spec.template.spec.containers[app].image"
    assert seen["changes"] == [{"path": path, "before": IMAGE, "after": "registry.k8s.io/pause:3.9"}]
    await call(rig, "set_image", **web, image="registry.k8s.io/pause:3.9")
    await settled(rig, "deploy", "web")
    await call(rig, "rollout_undo", **web)
    await settled(rig, "deploy", "web")
    assert (await call(rig, "get_deployment", **web))["images"] == [IMAGE]
    await call(rig, "restart_deployment", **web)
    await call(rig, "restart_deployment", name="db", namespace=SPACE, kind="statefulset")
    await settled(rig, "deploy", "web")
    stops = await call(rig, "scale_deployment", **web, replicas=0, dry_run=True)
    assert stops["needs_confirmation"]
    pods = (await call(rig, "list_pods", namespace=SPACE, label_selector="app=web", fields=["name"]))["pods"]
    await call(rig, "evict_pod", name=pods[0]["name"], namespace=SPACE)
    # Another manager's field, as this cluster tells it.
    applied = {"metadata": {"name": "settings"}, "data": {"mode": "slow"}}
    which: dict[str, Any] = {"kind": "configmaps", "manifest": applied, "namespace": SPACE}
    with pytest.raises(Conflict, match=r"data\.mode is owned by kubectl"):
        await call(rig, "apply_resource", **which)
    seen = await call(rig, "apply_resource", **which, force=True, dry_run=True)
    assert seen["needs_confirmation"]
    assert seen["changes"] == [{"path": "data.mode", "before": "fast", "after": "slow"}]
    await call(rig, "apply_resource", **which, force=True)
    with pytest.raises(Conflict):
        await call(
            rig,
            "patch_resource",
            kind="cm",
            name="settings",
            namespace=SPACE,
            patch={"data": {"mode": "x"}},
            resource_version="1",
        )
    with pytest.raises(InvalidArgument, match=r"spec\.nope|unknown field"):
        await call(rig, "patch_resource", kind="deploy", **web, patch={"spec": {"nope": 1}})


@pytest.mark.req("I8.1", "R26")
async def test_secrets_and_custom_kinds_are_made_and_deleted(rig: Rig) -> None:
    made = {"name": "made", "namespace": SPACE}
    said = [
        await call(rig, "create_secret", **made, data={"password": CANARY}, dry_run=True),
        await call(rig, "create_secret", **made, data={"password": CANARY}),
        await call(rig, "update_secret", **made, data={"password": CANARY * 2}, dry_run=True),
        await call(rig, "update_secret", **made, data={"password": CANARY * 2}),
    ]
    assert CANARY not in json.dumps(said)
    assert (await call(rig, "get_secret", **made, reveal=True))["data"] == {"password": CANARY * 2}
    await call(rig, "delete_secret", **made)
    place: dict[str, Any] = {"kind": f"gauges.{GROUP}", "namespace": SPACE}
    gauge = {"metadata": {"name": "two"}, "spec": {"size": 4}}
    await call(rig, "create_resource", **place, manifest=gauge)
    with pytest.raises(InvalidArgument):
        await call(rig, "create_resource", **place, manifest={"metadata": {"name": "three"}, "spec": {"size": "x"}})
    await call(rig, "patch_resource", **place, name="two", patch={"spec": {"size": 5}})
    one = await call(rig, "get_resource", **place, name="two", fields=["spec.size"])
    assert one["object"] == {"spec.size": 5}
    await call(rig, "delete_resource", **place, name="two")


@pytest.mark.req("I8.8")
async def test_pods_are_judged_as_this_cluster_would_store_them(rig: Rig) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"hostNetwork": True, "containers": [{"name": "a", "image": IMAGE}]}}
    _, plan = await rig.look("create_resource", WRITER, kind="pods", namespace=SPACE, manifest=pod)
    assert [str(need.permission) for need in plan.needs] == ["kubegate:danger:privileged-pod"]
    assert "spec.hostNetwork is true" in plan.needs[0].why


@pytest.mark.req("I7.5")
async def test_what_is_not_there_is_said_plainly(rig: Rig) -> None:
    with pytest.raises(NotFound, match="Names are exact"):
        await call(rig, "get_pod", name="gone", namespace=SPACE)
    with pytest.raises((NotFound, FailedPrecondition)):
        await call(rig, "delete_pod", name="gone", namespace=SPACE)
