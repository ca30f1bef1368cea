"""The kind table: what the API machinery has to know about a kind, as data instead of code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
SUBRESOURCE_VERBS = {
    "status": ("get", "patch", "update"),
    "scale": ("get", "patch", "update"),
    "ephemeralcontainers": ("get", "patch", "update"),
    "finalize": ("update",),
    "log": ("get",),
    "eviction": ("create",),
    "token": ("create",),
}
# Finalizers of the garbage collector.
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
METADATA_FIELDS = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True)
class Kind:
    """One served kind. `fields` are its extra field selectors, `model` its class in the kubernetes client."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    in_all: bool = False
    fields: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    model: str = ""
    custom: bool = False

    @property
    def api_version(self) -> str:
        """As in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The plural qualified by its group, as messages name it: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def model_name(self) -> str:
        """Name of the class in `kubernetes.client` that describes this kind."""
        return self.model or f"{self.version[:1].upper()}{self.version[1:]}{self.name}"

    @property
    def has_status(self) -> bool:
        """Whether `status` is written through a subresource of its own."""
        return "status" in self.subresources

    @property
    def selectable(self) -> tuple[str, ...]:
        """The field selectors that this kind answers."""
        return METADATA_FIELDS + self.fields


def _cluster(group: str, version: str, name: str, plural: str, **more: Any) -> Kind:
    return Kind(group, version, name, plural, namespaced=False, **more)


def _review(group: str, name: str, model: str = "", *, namespaced: bool = False) -> Kind:
    plural = name.lower() + "s"
    return Kind(group, "v1", name, plural, namespaced=namespaced, verbs=("create",), model=model)


_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.phase",
    "status.podIP",
)
_EVENT_FIELDS = (
    *(
        f"involvedObject.{f}"
        for f in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    ),
    "reason",
    "source",
    "type",
    "reportingComponent",
)
_POD_SUBRESOURCES = ("status", "log", "eviction", "ephemeralcontainers")
_SCALABLE = ("status", "scale")

NAMESPACE = _cluster(
    "",
    "v1",
    "Namespace",
    "namespaces",
    short=("ns",),
    subresources=("status", "finalize"),
    fields=("status.phase",),
)
NODE = _cluster("", "v1", "Node", "nodes", short=("no",), subresources=("status",), fields=("spec.unschedulable",))
POD = Kind("", "v1", "Pod", "pods", short=("po",), subresources=_POD_SUBRESOURCES, in_all=True, fields=_POD_FIELDS)
SERVICE = Kind("", "v1", "Service", "services", short=("svc",), subresources=("status",), in_all=True)
SECRET = Kind("", "v1", "Secret", "secrets", fields=("type",))
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps", short=("cm",))
SERVICE_ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts", short=("sa",), subresources=("token",))
EVENT = Kind("", "v1", "Event", "events", short=("ev",), fields=_EVENT_FIELDS, model="CoreV1Event")
ENDPOINTS = Kind("", "v1", "Endpoints", "endpoints", short=("ep",))
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments", short=("deploy",), subresources=_SCALABLE, in_all=True)
REPLICA_SET = Kind(
    "apps", "v1", "ReplicaSet", "replicasets", short=("rs",), subresources=_SCALABLE, in_all=True,
    fields=("status.replicas",),
)  # fmt: skip
STATEFUL_SET = Kind("apps", "v1", "StatefulSet", "statefulsets", short=("sts",), subresources=_SCALABLE, in_all=True)
DAEMON_SET = Kind("apps", "v1", "DaemonSet", "daemonsets", short=("ds",), subresources=("status",), in_all=True)
JOB = Kind("batch", "v1", "Job", "jobs", subresources=("status",), in_all=True, fields=("status.successful",))
CRON_JOB = Kind("batch", "v1", "CronJob", "cronjobs", short=("cj",), subresources=("status",), in_all=True)

CONTROLLER_REVISION = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", short=("pdb",), subresources=("status",))

ENDPOINT_SLICE = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")

_RBAC = "rbac.authorization.k8s.io"
ROLE = Kind(_RBAC, "v1", "Role", "roles")
ROLE_BINDING = Kind(_RBAC, "v1", "RoleBinding", "rolebindings")
CLUSTER_ROLE = _cluster(_RBAC, "v1", "ClusterRole", "clusterroles")
CLUSTER_ROLE_BINDING = _cluster(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings")

CRD = _cluster(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", short=("crd", "crds"),
    subresources=("status",),
)  # fmt: skip

POD_METRICS = Kind("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", verbs=("get", "list"))
NODE_METRICS = _cluster("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", verbs=("get", "list"))
METRICS = (POD_METRICS, NODE_METRICS)
"""Computed when they are asked for, never stored."""

EVICTION = Kind("policy", "v1", "Eviction", "evictions", verbs=())
SCALE = Kind("autoscaling", "v1", "Scale", "scales", verbs=())
DELETE_OPTIONS = Kind("", "v1", "DeleteOptions", "deleteoptions", verbs=())
TOKEN_REQUEST = Kind(
    "authentication.k8s.io",
    "v1",
    "TokenRequest",
    "tokenrequests",
    verbs=(),
    model="AuthenticationV1TokenRequest",
)

_AUTHZ, _AUTHN = "authorization.k8s.io", "authentication.k8s.io"
REVIEWS = (
    _review(_AUTHZ, "SubjectAccessReview"),
    _review(_AUTHZ, "SelfSubjectAccessReview"),
    _review(_AUTHZ, "SelfSubjectRulesReview"),
    _review(_AUTHZ, "LocalSubjectAccessReview", namespaced=True),
    _review(_AUTHN, "SelfSubjectReview"),
    _review(_AUTHN, "TokenReview"),
)

STORED = (
    NAMESPACE,
    NODE,
    POD,
    SERVICE,
    SECRET,
    CONFIG_MAP,
    SERVICE_ACCOUNT,
    EVENT,
    ENDPOINTS,
    _cluster("", "v1", "PersistentVolume", "persistentvolumes", short=("pv",), subresources=("status",)),
    Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", short=("pvc",), subresources=("status",)),
    Kind("", "v1", "ReplicationController", "replicationcontrollers", short=("rc",), in_all=True),
    Kind("", "v1", "ResourceQuota", "resourcequotas", short=("quota",), subresources=("status",)),
    Kind("", "v1", "LimitRange", "limitranges", short=("limits",)),
    DEPLOYMENT,
    REPLICA_SET,
    STATEFUL_SET,
    DAEMON_SET,
    CONTROLLER_REVISION,
    JOB,
    CRON_JOB,
    Kind(
        "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", short=("hpa",),
        subresources=("status",), in_all=True,
    ),
    Kind("networking.k8s.io", "v1", "Ingress", "ingresses", short=("ing",), subresources=("status",)),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short=("netpol",)),
    _cluster("networking.k8s.io", "v1", "IngressClass", "ingressclasses"),
    ENDPOINT_SLICE,
    BUDGET,
    ROLE,
    ROLE_BINDING,
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
    _cluster("storage.k8s.io", "v1", "StorageClass", "storageclasses", short=("sc",)),
    _cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", short=("pc",)),
    Kind("coordination.k8s.io", "v1", "Lease", "leases"),
    CRD,
)  # fmt: skip

SERVED = STORED + REVIEWS + METRICS
BY_RESOURCE = {(kind.group, kind.version, kind.plural): kind for kind in SERVED}
BY_KIND = {(kind.api_version, kind.name): kind for kind in (*SERVED, DELETE_OPTIONS, EVICTION, SCALE, TOKEN_REQUEST)}


CUSTOM: dict[Kind, Object] = {}
"""Custom kinds with their definitions; `custom.follower` keeps it and the two tables above in line with the store."""


def served() -> tuple[Kind, ...]:
    """Every kind that is served now."""
    return SERVED + tuple(CUSTOM)


def stored() -> tuple[Kind, ...]:
    """Every kind whose objects are stored."""
    return STORED + tuple(CUSTOM)


def group_versions() -> dict[str, str]:
    """The served version of each API group, the core group first."""
    return {kind.group: kind.version for kind in served()}
