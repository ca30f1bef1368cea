"""Services: list."""

from __future__ import annotations

import msgspec

from services.mcp_core.ports import Resource
from services.mcp_core.tools.base import Invocation, ListArguments, Permission, Structured, Tool
from services.mcp_core.tools.listing import Meta, list_objects

SERVICES = Resource("", "v1", "services")


class Port(msgspec.Struct, frozen=True, rename="camel"):
    """A port of a service."""

    port: int
    protocol: str = "TCP"
    name: str = ""
    node_port: int = 0


class ServiceSpec(msgspec.Struct, frozen=True):
    """What is read of a service's specification."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    ports: list[Port] = []
    selector: dict[str, str] = {}


class Service(msgspec.Struct, frozen=True):
    """What is read of a service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()


class ServiceSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A service in an answer. Ports as kubectl writes them: "80/TCP", "80:30080/TCP"."""

    name: str
    namespace: str
    type: str
    cluster_ip: str
    ports: list[str]
    selector: dict[str, str]
    created: str


class ServiceList(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of list_services."""

    services: list[ServiceSummary]
    truncated: bool


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
        selector=service.spec.selector,
        created=service.metadata.creation_timestamp,
    )


async def _list_services(invocation: Invocation) -> Structured:
    services, truncated = await list_objects(invocation, SERVICES, Service, summarize)
    return msgspec.to_builtins(ServiceList(services=services, truncated=truncated))  # type: ignore[no-any-return]


TOOLS = (
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
