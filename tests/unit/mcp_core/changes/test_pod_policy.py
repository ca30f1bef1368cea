"""Pod Security 'baseline': every control, in every place where a pod can stand (I8.8)."""

from typing import Any

import pytest

from services.mcp_core.changes import PRIVILEGED_POD
from services.mcp_core.pod_policy import CAPABILITIES, MAX_FINDINGS, SYSCTLS, violations
from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.planning import plan_change


def container(**context: Any) -> dict[str, Any]:
    return {"containers": [{"name": "app", "image": "a", "securityContext": context}]}


def probe(**action: Any) -> dict[str, Any]:
    return {"containers": [{"name": "app", "livenessProbe": action}]}


FORBIDDEN: dict[str, dict[str, Any]] = {
    "hostNetwork is true": {"hostNetwork": True},
    "hostPID is true": {"hostPID": True},
    "hostIPC is true": {"hostIPC": True},
    "volumes[v] is a hostPath": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
    "privileged is true": container(privileged=True),
    "capabilities.add has SYS_ADMIN": container(capabilities={"add": ["CHOWN", "SYS_ADMIN"]}),
    "capabilities.add has ALL": container(capabilities={"add": ["ALL"]}),
    "ports has hostPort 80": {"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}]},
    "procMount is not Default": container(procMount="Unmasked"),
    "sysctls has kernel.msgmax": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
    "seccompProfile.type is Unconfined": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    "appArmorProfile.type is Unconfined": container(appArmorProfile={"type": "Unconfined"}),
    "seLinuxOptions.type is spc_t": container(seLinuxOptions={"type": "spc_t"}),
    "seLinuxOptions.user is set": {"securityContext": {"seLinuxOptions": {"user": "system_u"}}},
    "seLinuxOptions.role is set": container(seLinuxOptions={"role": "sysadm_r"}),
    "windowsOptions.hostProcess is true": container(windowsOptions={"hostProcess": True}),
    "livenessProbe.httpGet.host is set": probe(httpGet={"port": 1, "host": "169.254.169.254"}),
    "livenessProbe.tcpSocket.host is set": probe(tcpSocket={"port": 1, "host": "10.0.0.1"}),
    "lifecycle.preStop.httpGet.host is set": {
        "containers": [{"name": "a", "lifecycle": {"preStop": {"httpGet": {"port": 1, "host": "x"}}}}]
    },
}
ALLOWED: list[dict[str, Any]] = [
    {},
    {"hostNetwork": False, "volumes": [{"name": "v", "emptyDir": {}}]},
    container(privileged=False, procMount="Default", capabilities={"drop": ["ALL"], "add": sorted(CAPABILITIES)}),
    container(seLinuxOptions={"type": "container_t", "level": "s0:c1"}, seccompProfile={"type": "RuntimeDefault"}),
    {"securityContext": {"sysctls": [{"name": name, "value": "1"} for name in SYSCTLS], "runAsUser": 0}},
    {"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 0}]}]},
    probe(httpGet={"port": 1, "host": ""}),
]


def in_kinds(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same pod in every kind that holds one."""
    template = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
    return {
        "Pod": {"spec": spec},
        **{
            kind: {"spec": {"template": template}}
            for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ReplicationController")
        },
        "CronJob": {"spec": {"jobTemplate": {"spec": {"template": template}}}},
        "PodTemplate": {"template": template},
        "Custom": {"spec": {"workers": [{"podTemplate": template}]}},
    }


@pytest.mark.req("I8.8")
@pytest.mark.parametrize("finding", FORBIDDEN)
def test_each_control_is_judged_in_each_kind(finding: str) -> None:
    for kind, obj in in_kinds(FORBIDDEN[finding]).items():
        found = violations(obj)
        assert len(found) == 1, kind
        assert found[0].endswith(finding), kind


@pytest.mark.req("I8.8")
def test_what_baseline_allows_is_allowed() -> None:
    for spec in ALLOWED:
        for kind, obj in in_kinds(spec).items():
            assert violations(obj) == [], kind


@pytest.mark.req("I8.8")
@pytest.mark.parametrize("field", ["initContainers", "ephemeralContainers", "containers"])
def test_every_sort_of_container_is_judged(field: str) -> None:
    spec = {
        "containers": [{"name": "ok"}],
        field: [{"name": "ok"}, {"name": "x", "securityContext": {"privileged": True}}],
    }
    assert violations({"spec": spec}) == [f"spec.{field}[x].securityContext.privileged is true"]


@pytest.mark.req("I8.8")
def test_older_ways_to_say_it_and_custom_kinds() -> None:
    apparmor = "container.apparmor.security.beta.kubernetes.io/app"
    for value, forbidden in (("unconfined", True), ("runtime/default", False), ("localhost/x", False)):
        assert bool(violations({"metadata": {"annotations": {apparmor: value}}})) is forbidden
    assert violations({"spec": {"hostNetwork": "true"}}), "a custom kind may take a text"
    assert violations({"spec": {"template": {"container": {"securityContext": {"privileged": True}}}}})
    assert violations({"spec": {"volumes": [{"hostPath": {"path": "/"}}]}})


@pytest.mark.req("I8.8")
def test_what_only_speaks_of_it_is_not_judged() -> None:
    schema = {"properties": {"hostNetwork": {"type": "boolean"}, "securityContext": {"properties": {}}}}
    assert violations({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}}) == []
    assert violations({"status": {"hostNetwork": True}, "metadata": {"managedFields": [{"hostPID": True}]}}) == []
    assert violations({"data": {"hostNetwork": "no"}}) == []


def test_it_ends_however_much_there_is() -> None:
    deep: Any = {"hostNetwork": True}
    for _ in range(5000):
        deep = {"a": [deep]}
    assert len(violations(deep)) == 1
    assert len(violations({"a": [{"hostPID": True}] * 1000})) == MAX_FINDINGS


@pytest.mark.req("I8.8", "I8.9")
async def test_a_plan_asks_for_the_danger_and_says_why() -> None:
    deployments = Resource("apps", "v1", "deployments")
    ref = ObjectRef(deployments, "default", "web")
    fine = {"metadata": {}, "spec": {"replicas": 1, "template": {"spec": {"containers": []}}}}
    bad = {**fine, "spec": {"replicas": 1, "template": {"spec": {"containers": [], "hostPID": True}}}}
    for before in ({}, fine):
        plan = await plan_change("Deployment", ref, before, bad, "")
        (need,) = [need for need in plan.needs if need.permission == PRIVILEGED_POD]
        assert "spec.template.spec.hostPID is true" in need.why
        assert need.required
    # The result is judged, not the change: what was privileged before still is.
    plan = await plan_change("Deployment", ref, bad, {**bad, "metadata": {"labels": {"a": "b"}}}, "")
    assert PRIVILEGED_POD in {need.permission for need in plan.needs}
    # Scaling makes no other pods.
    more = {**bad, "spec": {**bad["spec"], "replicas": 2}}
    plan = await plan_change("Deployment", ref, bad, more, "", replicas=2)
    assert PRIVILEGED_POD not in {need.permission for need in plan.needs}
