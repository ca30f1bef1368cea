"""Reads the protobuf bodies that kubectl's `create` commands send.

The models know every field's name and type, so all that is added here is the field numbers of the messages that
kubectl writes. A field that is not in the table is refused with its name, never dropped. Answers are always JSON,
which every client accepts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from services.dev_cluster import schema
from services.dev_cluster.clock import stamp
from services.dev_cluster.errors import ApiError, bad_request
from services.dev_cluster.kinds import BY_KIND, DELETE_OPTIONS, Object

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# The n-th word is the name of field n; "-" is a gap, "+" a wrapper message that JSON leaves out.
_TABLE = """
V1ObjectMeta: name generateName namespace selfLink uid resourceVersion generation creationTimestamp
  deletionTimestamp deletionGracePeriodSeconds labels annotations ownerReferences finalizers
V1OwnerReference: - - name uid apiVersion controller blockOwnerDeletion
V1LabelSelector: matchLabels matchExpressions
V1LabelSelectorRequirement: key operator values
V1DeleteOptions: gracePeriodSeconds preconditions orphanDependents propagationPolicy dryRun
V1Preconditions: uid resourceVersion
V1Namespace: metadata spec status
V1NamespaceSpec: finalizers
V1Secret: metadata data type stringData immutable
V1ConfigMap: metadata data binaryData immutable
V1ServiceAccount: metadata secrets imagePullSecrets automountServiceAccountToken
V1Service: metadata spec status
V1ServiceSpec: ports selector clusterIP type externalIPs - sessionAffinity loadBalancerIP
  loadBalancerSourceRanges externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses
  sessionAffinityConfig - - ipFamilyPolicy clusterIPs ipFamilies allocateLoadBalancerNodePorts
  loadBalancerClass internalTrafficPolicy trafficDistribution
V1ServicePort: name protocol port targetPort nodePort appProtocol
V1PodTemplateSpec: metadata spec
V1PodSpec: volumes containers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy
  nodeSelector serviceAccountName serviceAccount nodeName hostNetwork hostPID hostIPC securityContext
  imagePullSecrets hostname subdomain affinity schedulerName initContainers automountServiceAccountToken
  tolerations hostAliases priorityClassName priority dnsConfig shareProcessNamespace readinessGates
  runtimeClassName enableServiceLinks preemptionPolicy overhead topologySpreadConstraints
V1PodSecurityContext:
V1Container: name image command args workingDir ports env resources volumeMounts livenessProbe
  readinessProbe lifecycle terminationMessagePath imagePullPolicy securityContext stdin stdinOnce tty
  envFrom terminationMessagePolicy
V1ContainerPort: name hostPort containerPort protocol hostIP
V1EnvVar: name value
V1ResourceRequirements: limits requests
V1LocalObjectReference: name
V1ResourceQuota: metadata spec status
V1ResourceQuotaSpec: hard scopes
V1Deployment: metadata spec status
V1DeploymentSpec: replicas selector template strategy minReadySeconds revisionHistoryLimit paused -
  progressDeadlineSeconds
V1DeploymentStrategy: type rollingUpdate
V1RollingUpdateDeployment: maxUnavailable maxSurge
V1Job: metadata spec status
V1JobSpec: parallelism completions activeDeadlineSeconds selector manualSelector template backoffLimit
  ttlSecondsAfterFinished completionMode suspend
V1CronJob: metadata spec status
V1CronJobSpec: schedule startingDeadlineSeconds concurrencyPolicy suspend jobTemplate
  successfulJobsHistoryLimit failedJobsHistoryLimit timeZone
V1JobTemplateSpec: metadata spec
V1Role: metadata rules
V1RoleBinding: metadata subjects roleRef
V1ClusterRole: metadata rules aggregationRule
V1ClusterRoleBinding: metadata subjects roleRef
V1AggregationRule: clusterRoleSelectors
V1PolicyRule: verbs apiGroups resources resourceNames nonResourceURLs
V1RoleRef: apiGroup kind name
RbacV1Subject: kind apiGroup name namespace
V1Ingress: metadata spec status
V1IngressSpec: defaultBackend tls rules ingressClassName
V1IngressRule: host +http
V1HTTPIngressRuleValue: paths
V1HTTPIngressPath: path backend pathType
V1IngressBackend: - - resource service
V1IngressServiceBackend: name port
V1ServiceBackendPort: name number
V1IngressTLS: hosts secretName
V1PodDisruptionBudget: metadata spec status
V1PodDisruptionBudgetSpec: minAvailable selector maxUnavailable unhealthyPodEvictionPolicy
V1Eviction: metadata deleteOptions
V1PriorityClass: metadata value globalDefault description preemptionPolicy
AuthenticationV1TokenRequest: metadata spec status
V1TokenRequestSpec: audiences - boundObjectRef expirationSeconds
V1BoundObjectReference: kind apiVersion name uid
V1SelfSubjectReview: metadata status
V1SelfSubjectAccessReview: metadata spec status
V1SelfSubjectAccessReviewSpec: resourceAttributes nonResourceAttributes
V1ResourceAttributes: namespace verb group version resource subresource name
V1NonResourceAttributes: path verb
V1SelfSubjectRulesReview: metadata spec status
V1SelfSubjectRulesReviewSpec: namespace
"""
_NUMBERS = {model: names.split() for model, names in re.findall(r"^(\w+):((?: *\S+|\n )*)$", _TABLE, re.MULTILINE)}
# Go writes these even when nobody set them; elsewhere a zero was meant.
_UNSET_WHEN_ZERO = frozenset(
    {
        *("generation", "minReadySeconds", "nodePort", "healthCheckNodePort", "hostPort", "number"),
        *("paused", "publishNotReadyAddresses", "hostNetwork", "hostPID", "hostIPC", "globalDefault"),
        *("stdin", "stdinOnce", "tty"),
    }
)
_INT_OR_STRING = "object"


def decode(raw: bytes) -> Object:
    """The object in a body; 400 for what is not protobuf, 415 for a kind or field that the table lacks."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the body of the request is not Kubernetes protobuf")
    try:
        envelope = dict(_fields(raw[len(_MAGIC) :]))
        about = {number: value.decode() for number, value in _fields(envelope[1])}
        api_version, kind_name = about.get(1, ""), about.get(2, "")
        # kubectl labels DeleteOptions with the group of what it deletes.
        kind = DELETE_OPTIONS if kind_name == DELETE_OPTIONS.name else BY_KIND.get((api_version, kind_name))
        if kind is None or kind.model_name not in _NUMBERS:
            raise _unreadable(f"{api_version} {kind_name}")
        return {"apiVersion": api_version, "kind": kind_name} | _message(kind.model_name, envelope.get(2, b""))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise bad_request("the body of the request is not Kubernetes protobuf") from error


def _unreadable(what: str) -> ApiError:
    message = f"the development cluster cannot read {what} as protobuf; send JSON"
    return ApiError(415, "UnsupportedMediaType", message)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or bytes for what has a length."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value - (1 << 64) if value >= 1 << 63 else value
        elif wire == 2:
            size, at = _varint(raw, at)
            if at + size > len(raw):
                raise ValueError("truncated")
            yield tag >> 3, raw[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def _message(model: str, raw: bytes) -> Object:
    known, names = schema.fields(model), _NUMBERS.get(model, [])
    result: Object = {}
    for number, value in _fields(raw):
        name = names[number - 1] if 0 < number <= len(names) else "-"
        if name == "status" or (name == "-" and not value):
            continue
        if name == "-":
            raise _unreadable(f"field {number} of {model}")
        if name.startswith("+"):
            name, value = name[1:], dict(_fields(value)).get(1, b"")
        field = known[name]
        inner = field.item_type
        if field.type.startswith("List["):
            result.setdefault(name, []).append(_value(name, inner, value))
        elif field.type.startswith("Dict["):
            entry = dict(_fields(value))
            quantity = name in schema.QUANTITIES
            item = dict(_fields(entry.get(2, b""))).get(1, b"") if quantity else entry.get(2, b"")
            result.setdefault(name, {})[entry.get(1, b"").decode()] = _value(name, inner, item)
        else:
            decoded = _value(name, inner, value)
            empty = decoded in ("", {}, None) or (not decoded and name in _UNSET_WHEN_ZERO)
            if not empty:
                result[name] = decoded
    return result


def _value(name: str, type_: str, value: Any) -> Any:
    if type_ == "str":
        return value.decode()
    if type_ == "bytes":
        return base64.b64encode(value).decode()
    if type_ == "bool":
        return bool(value)
    if type_ == "int":
        return int(value)
    if type_ == "datetime":
        seconds = dict(_fields(value)).get(1)
        return stamp(seconds) if seconds else None
    if type_ == _INT_OR_STRING:
        parts = dict(_fields(value))
        return parts.get(3, b"").decode() if parts.get(1) else parts.get(2, 0)
    if type_ not in _NUMBERS:
        raise _unreadable(f"{name} ({type_})")
    return _message(type_, value)
