"""What makes an object acceptable: names, labels, required fields, and what may not change."""

from __future__ import annotations

import re
from typing import Any

from services.dev_cluster import errors, kinds, schema, selectors
from services.dev_cluster.kinds import Kind, Object

Causes = list[tuple[str, str]]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_QUALIFIED = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character"
)
_RBAC = (kinds.ROLE, kinds.ROLE_BINDING, kinds.CLUSTER_ROLE, kinds.CLUSTER_ROLE_BINDING)
_SELECTING = (kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.STATEFUL_SET, kinds.DAEMON_SET)
_POD_MUTABLE = (
    "containers",
    "initContainers",
    "activeDeadlineSeconds",
    "tolerations",
    "terminationGracePeriodSeconds",
)


def check(kind: Kind, new: Object, old: Object | None) -> None:
    """Refuses (422) an object that kube-apiserver would refuse for these reasons."""
    causes: Causes = []
    _metadata(kind, new["metadata"], causes)
    causes += [(path, "Required value") for path in schema.missing(kind, new)]
    spec = new.get("spec") or {}
    if kind.custom:
        spec = {}
    if not causes:
        if kind in _SELECTING:
            _selection(spec, causes)
        for path, pod in _pod_specs(kind, spec):
            _containers(path, pod, causes)
        if kind in (kinds.SECRET, kinds.CONFIG_MAP):
            _data_keys(new, causes)
        if spec.get("replicas") is not None and spec["replicas"] < 0:
            causes.append(("spec.replicas", f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"))
        if kind is kinds.CRD:
            _definition(new["metadata"].get("name", ""), spec, causes)
        if kind is kinds.DEPLOYMENT:
            _strategy(spec["strategy"], causes)
        if old is not None:
            _unchanged(kind, new, old, causes)
    if causes:
        raise errors.invalid(kind, new["metadata"].get("name", ""), causes)


def _metadata(kind: Kind, meta: Object, causes: Causes) -> None:
    name = meta.get("name", "")
    strict = kind in (kinds.NAMESPACE, kinds.SERVICE)
    pattern, limit, rule = (_LABEL, 63, _LABEL_RULE) if strict else (_SUBDOMAIN, 253, _SUBDOMAIN_RULE)
    if not name:
        causes.append(("metadata.name", "Required value: name or generateName is required"))
    elif kind in _RBAC:
        # RBAC names are path segments, not DNS names: `system:basic-user` is one.
        if name in (".", "..") or "/" in name or "%" in name:
            causes.append(("metadata.name", f'Invalid value: "{name}": may not be ".", ".." or contain "/" or "%"'))
    elif len(name) > limit or not pattern.fullmatch(name):
        causes.append(("metadata.name", f'Invalid value: "{name}": {rule}'))
    for key, value in (meta.get("labels") or {}).items():
        if not _QUALIFIED.fullmatch(key):
            causes.append(("metadata.labels", f'Invalid value: "{key}": name part must be a qualified name'))
        if len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            causes.append(("metadata.labels", f'Invalid value: "{value}": a valid label must be an empty string or '
                           "consist of alphanumeric characters, '-', '_' or '.'"))  # fmt: skip
    for key in meta.get("annotations") or {}:
        if not _QUALIFIED.fullmatch(key):
            causes.append(("metadata.annotations", f'Invalid value: "{key}": name part must be a qualified name'))


def _definition(name: str, spec: Object, causes: Causes) -> None:
    expected = f"{spec['names'].get('plural')}.{spec['group']}"
    if name != expected:
        causes.append(("metadata.name", f'Invalid value: "{name}": must be spec.names.plural+"."+spec.group'))
    if "." not in spec["group"] or not _SUBDOMAIN.fullmatch(spec["group"]):
        causes.append(("spec.group", f'Invalid value: "{spec["group"]}": should be a domain with at least one dot'))
    if sum(bool(version.get("storage")) for version in spec["versions"]) != 1:
        causes.append(("spec.versions", "Invalid value: must have exactly one version marked as storage version"))
    if spec["scope"] not in ("Cluster", "Namespaced"):
        causes.append(("spec.scope", f'Unsupported value: "{spec["scope"]}"'))


def _selection(spec: Object, causes: Causes) -> None:
    selector = spec.get("selector") or {}
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        causes.append(("spec.selector", "Invalid value: {}: empty selector is invalid for deployment"))
    elif not selectors.matches_selector(selector, labels):
        causes.append(("spec.template.metadata.labels", f"Invalid value: {labels}: `selector` does not match "
                       "template `labels`"))  # fmt: skip


def _strategy(strategy: Object, causes: Causes) -> None:
    if strategy["type"] not in ("RollingUpdate", "Recreate"):
        causes.append(("spec.strategy.type", f'Unsupported value: "{strategy["type"]}"'))
    for name, value in (strategy.get("rollingUpdate") or {}).items():
        if not re.fullmatch(r"\d{1,6}|\d{1,3}%", str(value)):
            rule = "must be an integer or a percentage (e.g '5%')"
            causes.append((f"spec.strategy.rollingUpdate.{name}", f'Invalid value: "{value}": {rule}'))


def _pod_specs(kind: Kind, spec: Object) -> list[tuple[str, Object]]:
    if kind.custom:
        return []
    if kind is kinds.POD:
        return [("spec", spec)]
    if kind is kinds.CRON_JOB:
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
        return [("spec.jobTemplate.spec.template.spec", (spec.get("template") or {}).get("spec") or {})]
    template = spec.get("template")
    return [("spec.template.spec", template.get("spec") or {})] if isinstance(template, dict) else []


def _containers(path: str, pod: Object, causes: Causes) -> None:
    if not pod.get("containers"):
        causes.append((f"{path}.containers", "Required value"))
    seen: set[str] = set()
    for field in ("containers", "initContainers"):
        for i, container in enumerate(pod.get(field) or []):
            where, name = f"{path}.{field}[{i}]", container.get("name", "")
            if not _LABEL.fullmatch(name) or len(name) > 63:
                causes.append((f"{where}.name", f'Invalid value: "{name}": {_LABEL_RULE}'))
            elif name in seen:
                causes.append((f"{where}.name", f'Duplicate value: "{name}"'))
            seen.add(name)
            if not container.get("image"):
                causes.append((f"{where}.image", "Required value"))


def _data_keys(obj: Object, causes: Causes) -> None:
    for key in (obj.get("data") or {}).keys() | (obj.get("binaryData") or {}).keys():
        if not _DATA_KEY.fullmatch(key) or len(key) > 253:
            causes.append((f"data[{key}]", f'Invalid value: "{key}": a valid config key must consist of alphanumeric '
                           "characters, '-', '_' or '.'"))  # fmt: skip


def _unchanged(kind: Kind, new: Object, old: Object, causes: Causes) -> None:
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if kind in _SELECTING and spec.get("selector") != before.get("selector"):
        causes.append(("spec.selector", f"Invalid value: {spec.get('selector')}: field is immutable"))
    if kind is kinds.POD and _frozen_pod(spec) != _frozen_pod(before):
        causes.append(("spec", "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
                       "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions "
                       "to existing tolerations)"))  # fmt: skip
    if kind in _RBAC and new.get("roleRef") != old.get("roleRef"):
        causes.append(("roleRef", "Invalid value: cannot change roleRef"))
    fixed = ("data", "binaryData", "immutable") if kind in (kinds.SECRET, kinds.CONFIG_MAP) else ()
    if old.get("immutable") and any(new.get(field) != old.get(field) for field in fixed):
        causes.append(("data", "Forbidden: field is immutable when `immutable` is set"))
    if kind is kinds.SECRET and new.get("type") != old.get("type"):
        causes.append(("type", f'Invalid value: "{new.get("type")}": field is immutable'))


def _frozen_pod(spec: Object) -> tuple[Any, ...]:
    rest = {key: value for key, value in spec.items() if key not in _POD_MUTABLE}
    images = [
        [{key: value for key, value in container.items() if key != "image"} for container in spec.get(field) or []]
        for field in ("containers", "initContainers")
    ]
    return rest, images
