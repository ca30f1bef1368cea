"""Deployments: list."""

from __future__ import annotations

import msgspec

from services.mcp_core.ports import Resource
from services.mcp_core.tools.base import (
    Invocation,
    ListArguments,
    Permission,
    Structured,
    Tool,
)
from services.mcp_core.tools.listing import Listing, Meta, list_objects, listed

DEPLOYMENTS = Resource("apps", "v1", "deployments")


class Replicas(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a deployment's status."""

    ready_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0


class Container(msgspec.Struct, frozen=True):
    """What is read of a container."""

    name: str
    image: str = ""


class PodSpec(msgspec.Struct, frozen=True):
    """What is read of the pod template."""

    containers: list[Container] = []


class Template(msgspec.Struct, frozen=True):
    """The pod template."""

    spec: PodSpec = PodSpec()


class DeploymentSpec(msgspec.Struct, frozen=True):
    """What is read of a deployment's specification."""

    replicas: int = 1
    template: Template = Template()


class Deployment(msgspec.Struct, frozen=True):
    """What is read of a deployment."""

    metadata: Meta
    spec: DeploymentSpec = DeploymentSpec()
    status: Replicas = Replicas()


class DeploymentSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A deployment in an answer. `replicas` is what is wanted, the others are what is there."""

    name: str = ""
    namespace: str = ""
    replicas: int = 0
    ready: int = 0
    updated: int = 0
    available: int = 0
    images: list[str] = []
    created: str = ""


class DeploymentList(Listing, frozen=True, kw_only=True):
    """Answer of list_deployments."""

    deployments: list[DeploymentSummary]


def summarize(deployment: Deployment) -> DeploymentSummary:
    """A deployment as an answer shows it."""
    return DeploymentSummary(
        name=deployment.metadata.name,
        namespace=deployment.metadata.namespace,
        replicas=deployment.spec.replicas,
        ready=deployment.status.ready_replicas,
        updated=deployment.status.updated_replicas,
        available=deployment.status.available_replicas,
        images=[container.image for container in deployment.spec.template.spec.containers],
        created=deployment.metadata.creation_timestamp,
    )


async def _list_deployments(invocation: Invocation) -> Structured:
    found = await list_objects(invocation, DEPLOYMENTS, Deployment, summarize)
    return listed("deployments", found, invocation.arguments, DeploymentSummary)


TOOLS = (
    Tool(
        name="list_deployments",
        title="List deployments",
        description="Deployments of a namespace with wanted and ready replicas and images. "
        "Give `namespace`, or `all_namespaces: true`.",
        arguments=ListArguments,
        result=DeploymentList,
        permission=Permission("list", "apps", "deployments"),
        run=_list_deployments,
        lists=True,
        read_only=True,
        idempotent=True,
    ),
)
