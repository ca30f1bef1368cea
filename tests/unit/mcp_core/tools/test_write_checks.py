"""What a change comes to, where the words of the request say less than it does."""

from __future__ import annotations

from typing import Any

import pytest

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Allowed, Policy, Principal, Role
from services.authz.policy.scope import EVERYWHERE, Scope
from services.common.errors import InvalidArgument
from services.mcp_core.pod_policy import violations
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.base import Plan
from services.mcp_core.tools.object_arguments import recorded_patch
from services.mcp_core.tools.planning import plan_change

CUSTOM = ObjectRef(Resource("argoproj.io", "v1alpha1", "rollouts"), "default", "web")
SCALE = ObjectRef(Resource("apps", "v1", "deployments"), "default", "web", "scale")


async def change(ref: ObjectRef, old: Any, new: Any, told: int | None) -> Plan:
    return await plan_change("X", ref, {"spec": old}, {"spec": new}, "Patches it.", replicas=told)


@pytest.mark.req("R10", "I8.3")
async def test_custom_kinds_are_not_scaled_by_the_way_either() -> None:
    with pytest.raises(InvalidArgument, match=r"spec\.replicas to 100"):
        await change(CUSTOM, {"replicas": 1}, {"replicas": 100}, told=2)
    assert (await change(CUSTOM, {"replicas": 1}, {"replicas": 0}, told=0)).confirm
    assert not (await change(CUSTOM, {"replicas": "1"}, {"replicas": "auto"}, told=None)).confirm


@pytest.mark.req("I8.3")
async def test_a_scale_to_zero_is_one_where_the_api_leaves_the_zero_out() -> None:
    # autoscaling/v1 marks `replicas` omitempty: a kube-apiserver answers `spec: {}`.
    assert (await change(SCALE, {"replicas": 3}, {}, told=0)).confirm
    with pytest.raises(InvalidArgument, match=r"spec\.replicas to 0"):
        await change(SCALE, {"replicas": 3}, {}, told=5)
    assert not (await change(SCALE, {}, {"replicas": 2}, told=2)).confirm


@pytest.mark.req("R26")
@pytest.mark.parametrize(
    "path",
    ["/data/password", "/data/db~1password", "/spec/template/spec/containers/0/env/3/value", "/data/token/x"],
)
def test_the_record_of_a_json_patch_hides_what_its_path_tells(path: str) -> None:
    operation = {"op": "replace", "path": path, "value": "hunter2"}
    shown = recorded_patch({"kind": "configmaps", "name": "x", "patch": [operation]})
    assert "hunter2" not in str(shown)
    assert path in str(shown)
    assert "blue" in str(
        recorded_patch({"kind": "cm", "patch": [{"op": "add", "path": "/data/colour", "value": "blue"}]})
    )


def test_the_judge_of_pods_takes_any_object() -> None:
    odd = {"securityContext": {"capabilities": {"add": [["SYS_ADMIN"]]}, "sysctls": [{"name": {}}]}}
    assert len(violations(odd)) == 2


@pytest.mark.req("I8.8")
async def test_a_path_of_the_node_is_one_by_way_of_a_persistent_volume_too() -> None:
    ref = ObjectRef(Resource("", "v1", "persistentvolumes"), "", "etc")
    volume = {"kind": "PersistentVolume", "spec": {"hostPath": {"path": "/etc"}}}
    plan = await plan_change("PersistentVolume", ref, {}, volume, "Creates it.")
    assert [str(need.permission) for need in plan.needs] == ["kubegate:danger:privileged-pod"]
    assert not violations({"kind": "PersistentVolume", "spec": {"csi": {"driver": "x"}}})

    danger = Action("kubegate", "danger", "privileged-pod", name="etc")
    for namespaces, allowed in ((EVERYWHERE, True), (Scope.of(["default"]), False)):
        engine = Engine(Policy((Role("r", ("kubegate:danger:privileged-pod",), namespaces),), "rev"))
        principal = Principal("kubegate", "bob", ("r",), namespaces=EVERYWHERE)
        assert isinstance(engine.decide(principal, danger), Allowed) == allowed
