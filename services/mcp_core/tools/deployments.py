"""Deployments: list and scale."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta as Constraint

from services.mcp_core.ports import ObjectRef, Resource
from services.mcp_core.tools.base import (
    ActionAttributes,
    Arguments,
    Invocation,
    ListArguments,
    Namespace,
    ObjectName,
    Permission,
    Structured,
    Tool,
    name_argument,
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


class ScaleArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of scale_deployment."""

    name: ObjectName
    namespace: Namespace
    replicas: Annotated[int, Constraint(ge=0, le=1000, description="How many pods there shall be.")]


class ScaleCount(msgspec.Struct, frozen=True):
    """A number of replicas."""

    replicas: int = 0


class Scale(msgspec.Struct, frozen=True):
    """The scale subresource (autoscaling/v1)."""

    spec: ScaleCount = ScaleCount()
    status: ScaleCount = ScaleCount()


class Scaled(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of scale_deployment: what is wanted now, and how many pods there were at that moment."""

    deployment: str
    namespace: str
    replicas: int
    current_replicas: int


async def _scale_deployment(invocation: Invocation) -> Structured:
    (namespace,) = invocation.namespaces
    name: str = invocation.arguments["name"]
    scale = await invocation.cluster.patch(
        ObjectRef(DEPLOYMENTS, namespace, name, "scale"),
        {"spec": {"replicas": invocation.arguments["replicas"]}},
        Scale,
    )
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Scaled(
            deployment=name,
            namespace=namespace,
            replicas=scale.spec.replicas,
            current_replicas=scale.status.replicas,
        )
    )


def _replicas(arguments: Arguments) -> ActionAttributes:
    return ActionAttributes(replicas=arguments["replicas"])


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
    Tool(
        name="scale_deployment",
        title="Scale a deployment",
        description="Sets how many pods a deployment shall have. 0 stops it.",
        arguments=ScaleArguments,
        result=Scaled,
        permission=Permission("scale", "apps", "deployments", "scale"),
        run=_scale_deployment,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
        attributes=_replicas,
    ),
)
