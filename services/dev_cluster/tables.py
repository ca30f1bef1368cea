"""Server-side printing: what `kubectl get` shows in its columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.dev_cluster import custom, kinds
from services.dev_cluster.clock import parse
from services.dev_cluster.kinds import Kind, Object

# A trailing "+" marks a column of the wide output, a trailing "#" one of integers.
Columns = tuple[str, ...]
Cells = Callable[[Object, float], list[Any]]


def age(obj_or_stamp: Object | str | None, now: float) -> str:
    """How long ago, as kubectl writes it."""
    text = obj_or_stamp["metadata"]["creationTimestamp"] if isinstance(obj_or_stamp, dict) else obj_or_stamp
    if not text:
        return "<unknown>"
    seconds = max(0, int(now - parse(text)))
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 10:
        rest = seconds % 60
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        rest = minutes % 60
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _selector(selector: Object | None) -> str:
    labels = (selector or {}).get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"


def _images(obj: Object) -> list[str]:
    containers = obj["spec"]["template"]["spec"]["containers"]
    return [",".join(c["name"] for c in containers), ",".join(c["image"] for c in containers)]


def _pod(obj: Object, now: float) -> list[Any]:
    status = _status(obj)
    containers = status.get("containerStatuses") or []
    shown = status.get("phase", "Unknown")
    for container in containers:
        state = container.get("state") or {}
        shown = (state.get("waiting") or {}).get("reason") or (state.get("terminated") or {}).get("reason") or shown
    if "deletionTimestamp" in obj["metadata"]:
        shown = "Terminating"
    ready = f"{sum(bool(c.get('ready')) for c in containers)}/{len(obj['spec']['containers'])}"
    restarts = max((c.get("restartCount", 0) for c in containers), default=0)
    ended = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for c in containers]
    last = f" ({age(max(filter(None, ended)), now)} ago)" if restarts and any(ended) else ""
    place = [status.get("podIP") or "<none>", obj["spec"].get("nodeName") or "<none>", "<none>", "<none>"]
    return [obj["metadata"]["name"], ready, shown, f"{restarts}{last}", age(obj, now), *place]


def _deployment(obj: Object, now: float) -> list[Any]:
    status = _status(obj)
    ready = f"{status.get('readyReplicas', 0)}/{obj['spec']['replicas']}"
    counts = [status.get("updatedReplicas", 0), status.get("availableReplicas", 0)]
    return [
        obj["metadata"]["name"],
        ready,
        *counts,
        age(obj, now),
        *_images(obj),
        _selector(obj["spec"]["selector"]),
    ]


def _replica_set(obj: Object, now: float) -> list[Any]:
    status = _status(obj)
    counts = [obj["spec"]["replicas"], status.get("replicas", 0), status.get("readyReplicas", 0)]
    return [
        obj["metadata"]["name"],
        *counts,
        age(obj, now),
        *_images(obj),
        _selector(obj["spec"]["selector"]),
    ]


def _stateful_set(obj: Object, now: float) -> list[Any]:
    ready = f"{_status(obj).get('readyReplicas', 0)}/{obj['spec']['replicas']}"
    return [obj["metadata"]["name"], ready, age(obj, now), *_images(obj)]


def _daemon_set(obj: Object, now: float) -> list[Any]:
    status = _status(obj)
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled",
             "numberAvailable")  # fmt: skip
    return [obj["metadata"]["name"], *(status.get(name, 0) for name in names), "<none>", age(obj, now)]


def _job(obj: Object, now: float) -> list[Any]:
    conditions = _status(obj).get("conditions") or []
    state = next((c["type"] for c in conditions if c["status"] == "True"), "Running")
    done = f"{_status(obj).get('succeeded', 0)}/{obj['spec'].get('completions', 1)}"
    return [obj["metadata"]["name"], state, done, age(obj, now)]


def _service(obj: Object, now: float) -> list[Any]:
    spec = obj["spec"]
    ports = [
        f"{p['port']}" + (f":{p['nodePort']}" if p.get("nodePort") else "") + f"/{p.get('protocol', 'TCP')}"
        for p in spec.get("ports") or []
    ]
    selector = _selector({"matchLabels": spec.get("selector")})
    addresses = [spec["type"], spec.get("clusterIP") or "<none>", "<none>"]
    return [obj["metadata"]["name"], *addresses, ",".join(ports) or "<none>", age(obj, now), selector]


def _secret(obj: Object, now: float) -> list[Any]:
    return [obj["metadata"]["name"], obj.get("type", ""), len(obj.get("data") or {}), age(obj, now)]


def _config_map(obj: Object, now: float) -> list[Any]:
    count = len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    return [obj["metadata"]["name"], count, age(obj, now)]


def _namespace(obj: Object, now: float) -> list[Any]:
    return [obj["metadata"]["name"], _status(obj).get("phase", ""), age(obj, now)]


def _node(obj: Object, now: float) -> list[Any]:
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in _status(obj).get("conditions") or [])
    prefix = "node-role.kubernetes.io/"
    roles = [key.removeprefix(prefix) for key in obj["metadata"].get("labels") or {} if key.startswith(prefix)]
    shown = ("Ready" if ready else "NotReady") + (
        ",SchedulingDisabled" if obj.get("spec", {}).get("unschedulable") else ""
    )
    info = _status(obj).get("nodeInfo") or {}
    about = [info.get(name, "") for name in ("kubeletVersion", "osImage", "containerRuntimeVersion")]
    return [obj["metadata"]["name"], shown, ",".join(sorted(roles)) or "<none>", age(obj, now), *about]


def _event(obj: Object, now: float) -> list[Any]:
    involved = obj["involvedObject"]
    seen = age(obj.get("lastTimestamp") or obj.get("eventTime"), now)
    if (obj.get("count") or 1) > 1:
        seen += f" (x{obj['count']} over {age(obj.get('firstTimestamp'), now)})"
    subject = f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"
    return [seen, obj.get("type", ""), obj.get("reason", ""), subject, obj.get("message", "")]


def _binding(obj: Object, now: float) -> list[Any]:
    ref, subjects = obj["roleRef"], obj.get("subjects") or []
    named = {kind: ", ".join(s["name"] for s in subjects if s["kind"] == kind) for kind in ("User", "Group")}
    accounts = ", ".join(f"{s.get('namespace')}/{s['name']}" for s in subjects if s["kind"] == "ServiceAccount")
    role = f"{ref['kind']}/{ref['name']}"
    return [obj["metadata"]["name"], role, age(obj, now), named["User"], named["Group"], accounts]


def _plain(obj: Object, now: float) -> list[Any]:
    return [obj["metadata"]["name"], age(obj, now)]


def _dated(obj: Object, now: float) -> list[Any]:
    return [obj["metadata"]["name"], obj["metadata"]["creationTimestamp"]]


_BINDING = (("Name", "Role", "Age", "Users+", "Groups+", "ServiceAccounts+"), _binding)
_TEMPLATE = ("Containers+", "Images+")
_BY_KIND: dict[Kind, tuple[Columns, Cells]] = {
    kinds.POD: (
        ("Name", "Ready", "Status", "Restarts", "Age", "IP+", "Node+", "Nominated Node+", "Readiness Gates+"), _pod
    ),
    kinds.DEPLOYMENT: (
        ("Name", "Ready", "Up-to-date#", "Available#", "Age", *_TEMPLATE, "Selector+"), _deployment
    ),
    kinds.REPLICA_SET: (("Name", "Desired#", "Current#", "Ready#", "Age", *_TEMPLATE, "Selector+"), _replica_set),
    kinds.STATEFUL_SET: (("Name", "Ready", "Age", *_TEMPLATE), _stateful_set),
    kinds.DAEMON_SET: (
        ("Name", "Desired#", "Current#", "Ready#", "Up-to-date#", "Available#", "Node Selector", "Age"), _daemon_set
    ),
    kinds.JOB: (("Name", "Status", "Completions", "Age"), _job),
    kinds.SERVICE: (("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector+"), _service),
    kinds.SECRET: (("Name", "Type", "Data#", "Age"), _secret),
    kinds.CONFIG_MAP: (("Name", "Data#", "Age"), _config_map),
    kinds.NAMESPACE: (("Name", "Status", "Age"), _namespace),
    kinds.NODE: (("Name", "Status", "Roles", "Age", "Version", "OS-Image+", "Container-Runtime+"), _node),
    kinds.EVENT: (("Last Seen", "Type", "Reason", "Object", "Message"), _event),
    kinds.ROLE: (("Name", "Created At"), _dated),
    kinds.CLUSTER_ROLE: (("Name", "Created At"), _dated),
    kinds.ROLE_BINDING: _BINDING,
    kinds.CLUSTER_ROLE_BINDING: _BINDING,
}  # fmt: skip


def _custom(kind: Kind) -> tuple[Columns, Cells]:
    columns = custom.columns_of(kind)

    def cells(obj: Object, now: float) -> list[Any]:
        values = [(column, custom.at(obj, column.path)) for column in columns]
        return [age(value, now) if column.type == "date" and value else value for column, value in values]

    marks = {"integer": "#"}
    return tuple(f"{one.name}{'+' if one.wide else marks.get(one.type, '')}" for one in columns), cells


def table(kind: Kind, objects: list[Object], meta: Object, now: float, include: str, *, header: bool = True) -> Object:
    """A `Table` of objects. `include` is None, Metadata or Object: how much of each goes with its row."""
    columns, cells = _custom(kind) if kind.custom else _BY_KIND.get(kind, (("Name", "Age"), _plain))
    definitions = []
    for column in columns if header else ():
        name = column.rstrip("+#")
        definitions.append({
            "name": name, "type": "integer" if column.endswith("#") else "string",
            "format": "name" if name == "Name" else "", "description": name,
            "priority": 1 if column.endswith("+") else 0,
        })  # fmt: skip
    rows: list[Object] = []
    for obj in objects:
        row: Object = {"cells": cells(obj, now)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
            row["object"] = partial | {"metadata": obj["metadata"]}
        rows.append(row)
    result: Object = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
    return result | {"columnDefinitions": definitions, "rows": rows}
