"""Namespaces: list."""

from __future__ import annotations

import msgspec

from services.mcp_core.ports import ClusterSession, ObjectRef, Resource
from services.mcp_core.tools.base import Invocation, Permission, Structured, Tool
from services.mcp_core.tools.listing import Meta

NAMESPACES = Resource("", "v1", "namespaces")

MAX_NAMESPACES = 5000
"""Most namespaces that are looked at."""


class NoArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A tool without arguments."""


class Status(msgspec.Struct, frozen=True):
    """What is read of a namespace's status."""

    phase: str = ""


class Namespace(msgspec.Struct, frozen=True):
    """What is read of a namespace."""

    metadata: Meta
    status: Status = Status()


class NamespaceSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A namespace in an answer."""

    name: str
    status: str
    created: str


class NamespaceList(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of list_namespaces."""

    namespaces: list[NamespaceSummary]
    truncated: bool


async def existing_namespaces(own: ClusterSession) -> tuple[str, ...]:
    """Names of all namespaces, asked as the core's own account: what `all_namespaces` expands over (R14)."""
    page = await own.list(ObjectRef(NAMESPACES), Namespace, limit=MAX_NAMESPACES)
    return tuple(namespace.metadata.name for namespace in page.items)


async def _list_namespaces(invocation: Invocation) -> Structured:
    page = await invocation.cluster.list(ObjectRef(NAMESPACES), Namespace, limit=MAX_NAMESPACES)
    decided = None if invocation.namespaces == ("",) else frozenset(invocation.namespaces)
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        NamespaceList(
            namespaces=[
                NamespaceSummary(
                    name=namespace.metadata.name,
                    status=namespace.status.phase,
                    created=namespace.metadata.creation_timestamp,
                )
                for namespace in page.items
                if decided is None or namespace.metadata.name in decided
            ],
            truncated=page.truncated,
        )
    )


TOOLS = (
    Tool(
        name="list_namespaces",
        title="List namespaces",
        description="The namespaces that you may see.",
        arguments=NoArguments,
        result=NamespaceList,
        permission=Permission("list", "", "namespaces"),
        run=_list_namespaces,
        namespaced=False,
        read_only=True,
        idempotent=True,
    ),
)
