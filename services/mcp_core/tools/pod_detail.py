"""One pod as an agent on call needs it: what its containers do and did, with what, and what the cluster says."""

from __future__ import annotations

from typing import Any

import msgspec

from services.mcp_core.redaction import redact
from services.mcp_core.redaction_objects import redact_command, redact_named
from services.mcp_core.tools.listing import Meta
from services.mcp_core.tools.pod_view import (
    Container,
    ContainerStatus,
    Pod,
    PodSpec,
    PodStatus,
    Reason,
    summarize,
)


class Ended(Reason, frozen=True, rename="camel"):
    """A waiting or terminated state in full."""

    message: str = ""
    started_at: str = ""
    finished_at: str = ""


class Began(msgspec.Struct, frozen=True, rename="camel"):
    """A running state."""

    started_at: str = ""


class DetailedState(msgspec.Struct, frozen=True):
    """A container's state: one of the three."""

    waiting: Ended | None = None
    terminated: Ended | None = None
    running: Began | None = None


class DetailedStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What the kubelet reports of a container, in full."""

    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: DetailedState = DetailedState()
    last_state: DetailedState = DetailedState()


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """A condition of a pod, a node or a workload."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class Selector(msgspec.Struct, frozen=True):
    """An entry of a Secret or ConfigMap."""

    name: str = ""
    key: str = ""


class ValueFrom(msgspec.Struct, frozen=True, rename="camel"):
    """Where an environment variable comes from."""

    secret_key_ref: Selector | None = None
    config_map_key_ref: Selector | None = None


class Variable(msgspec.Struct, frozen=True, rename="camel"):
    """An environment variable."""

    name: str
    value: str = ""
    value_from: ValueFrom | None = None


class Source(msgspec.Struct, frozen=True, rename="camel"):
    """A whole Secret or ConfigMap as environment."""

    prefix: str = ""
    secret_ref: Selector | None = None
    config_map_ref: Selector | None = None


class Resources(msgspec.Struct, frozen=True):
    """What a container asks for and may use."""

    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class DetailedContainer(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a container's specification, in full."""

    name: str
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    env: list[Variable] = []
    env_from: list[Source] = []
    resources: Resources = Resources()
    restart_policy: str = ""


class DetailedSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod's specification, in full."""

    containers: list[DetailedContainer] = []
    init_containers: list[DetailedContainer] = []
    node_name: str = ""
    service_account_name: str = ""


class DetailedPodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod's status, in full."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    qos_class: str = ""
    conditions: list[Condition] | None = None
    container_statuses: list[DetailedStatus] | None = None
    init_container_statuses: list[DetailedStatus] | None = None


class Owner(msgspec.Struct, frozen=True):
    """A reference to an owner."""

    kind: str
    name: str
    controller: bool = False
    uid: str = ""


class DetailedMeta(Meta, frozen=True, rename="camel"):
    """What is read of a pod's metadata, in full."""

    labels: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: list[Owner] = msgspec.field(default_factory=list)


class DetailedPod(msgspec.Struct, frozen=True):
    """What get_pod and diagnose read of a pod."""

    metadata: DetailedMeta
    spec: DetailedSpec = DetailedSpec()
    status: DetailedPodStatus = DetailedPodStatus()


class ContainerDetail(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A container in an answer. `last_exit`: how it ended before its last restart, empty if it never did.

    env: names to values, or "<secret NAME/KEY>", "<configmap NAME/KEY>". Values that may be secret are removed.
    """

    name: str
    image: str
    ready: bool
    restarts: int
    state: str
    last_exit: str
    command: list[str]
    env: dict[str, str]
    requests: dict[str, str]
    limits: dict[str, str]
    init: bool = False


class ConditionSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A condition in an answer."""

    type: str
    status: str
    reason: str
    message: str


class PodDetail(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of get_pod. The first fields are those of list_pods; `owner` is "Kind/name" of its controller."""

    name: str
    namespace: str
    status: str
    ready: str
    restarts: int
    created: str
    node: str
    ip: str
    qos: str
    service_account: str
    owner: str
    labels: dict[str, str]
    message: str
    containers: list[ContainerDetail]
    conditions: list[ConditionSummary]


def detail(pod: DetailedPod) -> PodDetail:
    """A pod as get_pod answers it."""
    row = summarize(narrow(pod))
    status = {
        one.name: one for one in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))
    }
    owner = next((owner for owner in pod.metadata.owner_references if owner.controller), None)
    return PodDetail(
        name=row.name,
        namespace=row.namespace,
        status=row.status,
        ready=row.ready,
        restarts=row.restarts,
        created=row.created,
        node=row.node,
        ip=pod.status.pod_ip,
        qos=pod.status.qos_class,
        service_account=pod.spec.service_account_name,
        owner=f"{owner.kind}/{owner.name}" if owner else "",
        labels={key: redact_named(key, value) for key, value in pod.metadata.labels.items()},
        message=redact(pod.status.message),
        containers=[
            *(_container(one, status.get(one.name, DetailedStatus()), init=True) for one in pod.spec.init_containers),
            *(_container(one, status.get(one.name, DetailedStatus())) for one in pod.spec.containers),
        ],
        conditions=conditions(pod.status.conditions),
    )


def narrow(pod: DetailedPod) -> Pod:
    """The fields that lists read."""
    return Pod(
        pod.metadata,
        PodSpec(
            [Container(one.name) for one in pod.spec.containers],
            [Container(one.name, one.restart_policy) for one in pod.spec.init_containers],
            pod.spec.node_name,
        ),
        PodStatus(
            pod.status.phase,
            pod.status.reason,
            [_narrow(one) for one in pod.status.container_statuses or ()],
            [_narrow(one) for one in pod.status.init_container_statuses or ()],
        ),
    )


def _narrow(status: DetailedStatus) -> ContainerStatus:
    return msgspec.convert(
        {
            "name": status.name,
            "ready": status.ready,
            "restartCount": status.restart_count,
            "state": msgspec.to_builtins(status.state),
        },
        ContainerStatus,
    )


def _container(spec: DetailedContainer, status: DetailedStatus, *, init: bool = False) -> ContainerDetail:
    env = {variable.name: _variable(variable) for variable in spec.env}
    for source in spec.env_from:
        for what, ref in (("secret", source.secret_ref), ("configmap", source.config_map_ref)):
            if ref is not None:
                env[f"{source.prefix}*"] = f"<{what} {ref.name}>"
    return ContainerDetail(
        name=spec.name,
        image=spec.image,
        ready=status.ready,
        restarts=status.restart_count,
        state=state(status.state),
        last_exit=state(status.last_state),
        command=redact_command([*spec.command, *spec.args]),
        env=env,
        requests={key: str(value) for key, value in spec.resources.requests.items()},
        limits={key: str(value) for key, value in spec.resources.limits.items()},
        init=init,
    )


def _variable(variable: Variable) -> str:
    source = variable.value_from
    if source is not None and source.secret_key_ref is not None:
        return f"<secret {source.secret_key_ref.name}/{source.secret_key_ref.key}>"
    if source is not None and source.config_map_key_ref is not None:
        return f"<configmap {source.config_map_key_ref.name}/{source.config_map_key_ref.key}>"
    return "<field>" if source is not None else redact_named(variable.name, variable.value)


def state(given: DetailedState) -> str:
    """A container's state in words; empty where there is none."""
    if given.waiting is not None:
        return _said("waiting", given.waiting)
    if given.terminated is not None:
        ended = given.terminated
        how = f"signal {ended.signal}" if ended.signal else f"exit code {ended.exit_code}"
        return f"{_said('terminated', ended)}, {how}" + (f", at {ended.finished_at}" if ended.finished_at else "")
    return f"running since {given.running.started_at}" if given.running is not None else ""


def _said(word: str, given: Ended) -> str:
    message = redact(given.message)[:500]
    return word + (f": {given.reason}" if given.reason else "") + (f" ({message})" if message else "")


def conditions(given: list[Condition] | None) -> list[ConditionSummary]:
    """Conditions as answers show them."""
    return [ConditionSummary(one.type, one.status, one.reason, redact(one.message)) for one in given or ()]
