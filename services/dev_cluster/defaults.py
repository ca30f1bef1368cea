"""The values that kube-apiserver fills in, for the kinds whose readers rely on them."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable
from typing import Any

from services.dev_cluster import kinds
from services.dev_cluster.kinds import Kind, Object

SERVICE_RANGE = ipaddress.ip_network("10.96.0.0/16")
_RBAC_GROUP = "rbac.authorization.k8s.io"


def _fill(target: Object, **values: Any) -> None:
    for name, value in values.items():
        target.setdefault(name, value)


def pod_spec(spec: Object) -> None:
    """Defaults of a pod template's spec."""
    _fill(spec, restartPolicy="Always", dnsPolicy="ClusterFirst", terminationGracePeriodSeconds=30)
    _fill(spec, schedulerName="default-scheduler", securityContext={})
    if "serviceAccountName" in spec:
        spec["serviceAccount"] = spec["serviceAccountName"]
    for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        image = container.get("image", "")
        latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
        _fill(
            container,
            imagePullPolicy="Always" if latest and "@" not in image else "IfNotPresent",
            resources={},
        )
        _fill(container, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File")
        for port in container.get("ports") or []:
            _fill(port, protocol="TCP")
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if probe in container:
                _fill(
                    container[probe],
                    timeoutSeconds=1,
                    periodSeconds=10,
                    successThreshold=1,
                    failureThreshold=3,
                )
        limits = container["resources"].get("limits")
        if limits:
            _fill(container["resources"].setdefault("requests", {}), **limits)


def _pod(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    pod_spec(spec)
    _fill(spec, serviceAccountName="default", enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority")
    _fill(spec, priority=0, serviceAccount=spec["serviceAccountName"])
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _template(obj: Object) -> None:
    template = obj.setdefault("spec", {}).get("template")
    if isinstance(template, dict):
        pod_spec(template.setdefault("spec", {}))


def _deployment(obj: Object) -> None:
    _template(obj)
    spec = obj["spec"]
    _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    _fill(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        _fill(spec["strategy"], rollingUpdate={})
        _fill(spec["strategy"]["rollingUpdate"], maxSurge="25%", maxUnavailable="25%")


def _replica_set(obj: Object) -> None:
    _template(obj)
    _fill(obj["spec"], replicas=1)


def _stateful_set(obj: Object) -> None:
    _template(obj)
    _fill(obj["spec"], replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady", serviceName="")
    _fill(obj["spec"], updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})


def _daemon_set(obj: Object) -> None:
    _template(obj)
    update = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    _fill(obj["spec"], revisionHistoryLimit=10, updateStrategy=update)


def _job(obj: Object) -> None:
    _template(obj)
    _fill(obj["spec"], completions=1, parallelism=1, backoffLimit=6, completionMode="NonIndexed", suspend=False)


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    _fill(spec, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    for port in spec.get("ports") or []:
        _fill(port, protocol="TCP", targetPort=port.get("port"))
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def _secret(obj: Object) -> None:
    obj.setdefault("type", "Opaque")
    plain = obj.pop("stringData", None) or {}
    if plain:
        encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
        obj["data"] = (obj.get("data") or {}) | encoded


def _namespace(obj: Object) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _binding(obj: Object) -> None:
    if isinstance(obj.get("roleRef"), dict):
        obj["roleRef"].setdefault("apiGroup", _RBAC_GROUP)
    for subject in obj.get("subjects") or []:
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", _RBAC_GROUP)
        elif subject.get("kind") == "ServiceAccount" and obj["metadata"].get("namespace"):
            subject.setdefault("namespace", obj["metadata"]["namespace"])


_BY_KIND: dict[Kind, Callable[[Object], None]] = {
    kinds.POD: _pod,
    kinds.DEPLOYMENT: _deployment,
    kinds.REPLICA_SET: _replica_set,
    kinds.STATEFUL_SET: _stateful_set,
    kinds.DAEMON_SET: _daemon_set,
    kinds.JOB: _job,
    kinds.SERVICE: _service,
    kinds.SECRET: _secret,
    kinds.NAMESPACE: _namespace,
    kinds.ROLE_BINDING: _binding,
    kinds.CLUSTER_ROLE_BINDING: _binding,
}


def fill(kind: Kind, obj: Object) -> None:
    """Fills in the defaults of a kind, in place."""
    filler = _BY_KIND.get(kind)
    if filler is not None:
        filler(obj)
