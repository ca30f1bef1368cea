"""What a tool is. Tools describe themselves, resolve their arguments and run; they decide nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.mcp_core.model import Permission as Permission  # noqa: PLC0414 - the tools take it from here
from services.mcp_core.naming import DNS1123_LABEL, DNS1123_SUBDOMAIN
from services.mcp_core.ports import ClusterSession
from services.mcp_core.tools.schema import json_schema

Arguments: TypeAlias = Mapping[str, Any]
Structured: TypeAlias = dict[str, Any]

Namespace: TypeAlias = Annotated[str, Meta(pattern=DNS1123_LABEL, description="Namespace.")]
ObjectName: TypeAlias = Annotated[
    str, Meta(pattern=DNS1123_SUBDOMAIN, max_length=253, description="Name of the object.")
]

MAX_ITEMS = 1000
"""Most items in one answer of a list tool."""


class ListArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of a list of namespaced things: one namespace, or all that the caller may list (R14)."""

    namespace: Annotated[str, Meta(pattern=DNS1123_LABEL, description="List this namespace.")] | UnsetType = UNSET
    all_namespaces: Annotated[
        bool, Meta(description="Instead of `namespace`: list every namespace that you may list.")
    ] = False
    label_selector: Annotated[
        str, Meta(max_length=512, description='Only what matches, e.g. "app=web,tier!=cache".')
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_ITEMS)] = 500


class ObjectArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments that name one namespaced object."""

    name: ObjectName
    namespace: Namespace


@dataclass(frozen=True, slots=True)
class ActionAttributes:
    """Attributes of an action that policy may read (R10)."""

    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """One allowed call.

    arguments: as `tools.validate` returned them, defaults filled in. namespaces: the namespaces that were
    decided; ("",) is one cluster-wide list. A tool touches no other. list_namespaces returns those named
    here, or all for ("",); since no cluster role lets a caller list only some namespaces, its `cluster` is the
    core's own session in the first case and the caller's in the second. cluster: the cluster as the caller.
    """

    arguments: Arguments
    namespaces: tuple[str, ...]
    cluster: ClusterSession


def no_name(arguments: Arguments) -> str:
    """For tools that act on a collection."""
    return ""


def name_argument(arguments: Arguments) -> str:
    """For tools that act on the object that `name` names."""
    return str(arguments["name"])


def no_attributes(arguments: Arguments) -> ActionAttributes:
    """For tools whose arguments policy does not read."""
    return ActionAttributes()


def compact_json(result: Structured) -> str:
    """Text content for MCP clients that do not read structured content. JSON quoting fences the strings."""
    return json.dumps(result, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool.

    arguments, result: structs; input_schema, output_schema: JSON Schema 2020-12 derived from them.
    namespaced: False only for list_namespaces. lists: takes `all_namespaces` instead of `namespace`.
    run: returns structured content valid under output_schema; raises DomainError. text: the same for the
    MCP text content, with text from the cluster fenced as data. resource_name and attributes: for the Action.
    """

    name: str
    title: str
    description: str
    arguments: type[msgspec.Struct]
    result: type[msgspec.Struct]
    permission: Permission
    run: Callable[[Invocation], Awaitable[Structured]]
    namespaced: bool = True
    lists: bool = False
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    resource_name: Callable[[Arguments], str] = no_name
    attributes: Callable[[Arguments], ActionAttributes] = no_attributes
    text: Callable[[Structured], str] = compact_json
    input_schema: Mapping[str, Any] = field(init=False)
    output_schema: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_schema", json_schema(self.arguments))
        object.__setattr__(self, "output_schema", json_schema(self.result))
