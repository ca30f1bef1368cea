"""Ways around the checks of writes, tried against the embedded cluster: none gets further than the front door."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.authz.policy.parse import parse_policy
from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import EMBEDDED_KINDS, EMBEDDED_NAMESPACES
from services.common.errors import InvalidArgument
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from tests.contract.kube import Authority, dev_cluster
from tests.fakes.rig import Rig

CANARY = "hunter2hunter2"
POLICY = """
roles:
  - {name: admin, permissions: ["k8s:*"]}
"""
PLACE: dict[str, Any] = {"namespace": "default"}
BACKUPS = EMBEDDED_KINDS[0]


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    authority = Authority(tmp_path_factory.mktemp("bypasses"))
    rbac = cluster_rbac(parse_policy(POLICY.encode()), EMBEDDED_NAMESPACES, kinds=EMBEDDED_KINDS)
    async with dev_cluster(authority, rbac) as address:
        opened = await KubernetesCluster.open(authority.settings(address))
        yield Rig(opened)
        await opened.close()


def needs_of(plan: Any) -> list[str]:
    return [str(need.permission) for need in plan.needs]


@pytest.mark.req("R26", "I8.2")
@pytest.mark.parametrize("op", ["copy", "move"])
async def test_no_patch_carries_a_secret_to_where_it_is_shown(rig: Rig, op: str) -> None:
    await rig.call("create_secret", name=f"db-{op}", data={"password": CANARY}, **PLACE)
    carry: Any = [
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": op, "from": "/data/password", "path": "/metadata/annotations/note"},
    ]
    for dry_run in (True, False):
        with pytest.raises(InvalidArgument, match=r"\[1\].*give the value itself"):
            await rig.call(
                "patch_resource", kind="secret", name=f"db-{op}", type="json", patch=carry, dry_run=dry_run, **PLACE
            )


@pytest.mark.req("R10", "I8.9")
@pytest.mark.parametrize(
    ("kind", "name", "place", "needed"),
    [
        ("namespaces", "staging", {}, ["k8s:namespaces:delete", "kubegate:danger:delete-namespace"]),
        ("services", "kubernetes", PLACE, ["k8s:services:delete"]),
    ],
)
async def test_what_is_handed_to_the_garbage_collector_is_deleted(
    rig: Rig, kind: str, name: str, place: dict[str, Any], needed: list[str]
) -> None:
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": "gone", "uid": "00000000-0000-4000-8000-000000000000"}
    patch = {"metadata": {"ownerReferences": [owner]}}
    _, plan = await rig.look("patch_resource", kind=kind, name=name, patch=patch, **place)
    assert needs_of(plan) == needed
    assert plan.confirm
    assert any("is deleted" in note for note in plan.notes)
    manifest = {"metadata": {"name": name, **patch["metadata"]}}
    _, plan = await rig.look("apply_resource", kind=kind, manifest=manifest, **place)
    assert needs_of(plan) == needed
    assert plan.confirm


@pytest.mark.req("R10", "I8.9")
async def test_the_last_finalizer_of_what_is_being_deleted_is_its_deletion(rig: Rig) -> None:
    manifest = {"metadata": {"name": "kept", "finalizers": ["example.com/hold"]}}
    await rig.call("create_resource", kind="cm", manifest=manifest, **PLACE)
    drop: Any = {"metadata": {"finalizers": None}}
    _, plan = await rig.look("patch_resource", kind="cm", name="kept", patch=drop, **PLACE)
    assert not plan.confirm, "nobody deletes it yet"
    await rig.call("delete_resource", kind="cm", name="kept", **PLACE)
    _, plan = await rig.look("patch_resource", kind="cm", name="kept", patch=drop, **PLACE)
    assert needs_of(plan) == ["k8s:configmaps:delete"]
    assert plan.confirm
    await rig.call("patch_resource", kind="cm", name="kept", patch=drop, **PLACE)


@pytest.mark.req("I8.10")
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("patch_resource", {"name": "x", "patch": {"metadata": [1]}}),
        ("patch_resource", {"name": "x", "type": "json", "patch": [{"op": "add"}]}),
        ("patch_resource", {"name": "x", "type": "json", "patch": [{"op": ["add"], "path": "/a", "value": 1}]}),
        ("create_resource", {"manifest": {"metadata": {"name": "x"}, "type": []}}),
    ],
)
async def test_nonsense_is_told_what_is_wrong(rig: Rig, tool: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await rig.call(tool, kind="secrets", **arguments, **PLACE)
