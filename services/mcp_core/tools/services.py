"""Services: list."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.redaction_objects import redact_named
from services.mcp_core.tools.base import (
    Invocation,
    ListArguments,
    Need,
    ObjectArguments,
    Permission,
    Structured,
    Tool,
    name_argument,
)
from services.mcp_core.tools.listing import Listing, Meta, list_objects, listed

SERVICES = Resource("", "v1", "services")
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")
SLICES_PERMISSION = Permission("list", "discovery.k8s.io", "endpointslices")

MAX_SLICES = 50
MAX_ENDPOINTS = 100
"""Most slices read, and most endpoints shown, for one service."""


class Port(msgspec.Struct, frozen=True, rename="camel"):
    """A port of a service."""

    port: int
    protocol: str = "TCP"
    name: str = ""
    node_port: int = 0


class ServiceSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a service's specification."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    ports: list[Port] = []
    selector: dict[str, str] = {}
    external_name: str = ""
    external_ips: list[str] = msgspec.field(name="externalIPs", default_factory=list)


class Address(msgspec.Struct, frozen=True):
    """An address of a load balancer."""

    ip: str = ""
    hostname: str = ""


class LoadBalancer(msgspec.Struct, frozen=True):
    """What a load balancer reports."""

    ingress: list[Address] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a service's status."""

    load_balancer: LoadBalancer = LoadBalancer()


class Service(msgspec.Struct, frozen=True):
    """What is read of a service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class ServiceDetail(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Answer of get_service. `external`: addresses outside the cluster; `endpoints`: the pods behind it.

    `endpoints` is absent where the caller may not list endpoint slices. `message` says what to make of it.
    """

    name: str
    namespace: str
    type: str
    cluster_ip: str
    ports: list[str]
    selector: dict[str, str]
    created: str
    external: list[str]
    endpoints: list[str] | UnsetType = UNSET
    message: str


class Conditions(msgspec.Struct, frozen=True):
    """Whether an endpoint takes traffic; unset counts as yes."""

    ready: bool | None = None


class Reference(msgspec.Struct, frozen=True):
    """The pod behind an endpoint."""

    name: str = ""


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """An endpoint of a slice."""

    addresses: list[str] = []
    conditions: Conditions = Conditions()
    target_ref: Reference | None = None


class Slice(msgspec.Struct, frozen=True):
    """What is read of an EndpointSlice (discovery.k8s.io/v1)."""

    endpoints: list[Endpoint] | None = None


class ServiceSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A service in an answer. Ports as kubectl writes them: "80/TCP", "80:30080/TCP"."""

    name: str = ""
    namespace: str = ""
    type: str = ""
    cluster_ip: str = ""
    ports: list[str] = []
    selector: dict[str, str] = {}
    created: str = ""


class ServiceList(Listing, frozen=True, kw_only=True):
    """Answer of list_services."""

    services: list[ServiceSummary]


def summarize(service: Service) -> ServiceSummary:
    """A service as an answer shows it."""
    return ServiceSummary(
        name=service.metadata.name,
        namespace=service.metadata.namespace,
        type=service.spec.type,
        cluster_ip=service.spec.cluster_ip,
        ports=[
            f"{port.port}:{port.node_port}/{port.protocol}" if port.node_port else f"{port.port}/{port.protocol}"
            for port in service.spec.ports
        ],
        selector={key: redact_named(key, value) for key, value in service.spec.selector.items()},
        created=service.metadata.creation_timestamp,
    )


async def _list_services(invocation: Invocation) -> Structured:
    found = await list_objects(invocation, SERVICES, Service, summarize)
    return listed("services", found, invocation.arguments, ServiceSummary)


async def _get_service(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    name: str = invocation.arguments["name"]
    service = await invocation.cluster.get(ObjectRef(SERVICES, namespace, name), Service)
    summary, spec = summarize(service), service.spec
    ingress = service.status.load_balancer.ingress or []
    external = [*spec.external_ips, *(one.ip or one.hostname for one in ingress)]
    result: Structured = msgspec.to_builtins(summary)
    result["external"] = [*external, spec.external_name] if spec.external_name else external
    if not invocation.may(SLICES_PERMISSION):
        result["message"] = f"Its endpoints are not shown: that needs {SLICES_PERMISSION}."
        return result
    page = await invocation.cluster.list(
        ObjectRef(SLICES, namespace), Slice, label_selector=f"kubernetes.io/service-name={name}", limit=MAX_SLICES
    )
    found = [endpoint for one in page.items for endpoint in one.endpoints or ()]
    ready = [endpoint for endpoint in found if endpoint.conditions.ready is not False]
    shown = [f"{one.target_ref.name if one.target_ref else ','.join(one.addresses)}" for one in ready]
    result["endpoints"] = shown[:MAX_ENDPOINTS]
    if spec.type == "ExternalName":
        result["message"] = "It is an alias of a name outside the cluster and has no endpoints."
    elif not found:
        result["message"] = "No pod is behind it: nothing matches its selector. Compare it with the pods' labels."
    else:
        result["message"] = f"{len(ready)} of {len(found)} endpoints are ready."
    return result


TOOLS = (
    Tool(
        name="get_service",
        title="Look at a service",
        description="One service: type, addresses, ports, selector, and which ready pods are behind it.",
        arguments=ObjectArguments,
        result=ServiceDetail,
        permission=Permission("list", "", "services"),
        run=_get_service,
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
        needs=lambda _: (Need(SLICES_PERMISSION, required=False),),
    ),
    Tool(
        name="list_services",
        title="List services",
        description="Services of a namespace with type, address, ports and selector. "
        "Give `namespace`, or `all_namespaces: true`.",
        arguments=ListArguments,
        result=ServiceList,
        permission=Permission("list", "", "services"),
        run=_list_services,
        lists=True,
        read_only=True,
        idempotent=True,
    ),
)
