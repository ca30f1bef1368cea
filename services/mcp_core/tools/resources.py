"""Any kind there is, custom ones included: list, get, and what its fields mean. The kind is found by discovery.

Each call is the action of the kind that it names, so policy says the same here as to the tool made for the kind
(R10). Lists are tables as the cluster prints them for kubectl; an object is redacted before a field is picked (R26).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import NotFound
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.ports import Columns, ObjectRef, Page, Row
from services.mcp_core.redaction_objects import redact_named, redact_object
from services.mcp_core.tools.base import (
    Arguments,
    Continue,
    FieldNames,
    FieldSelector,
    Invocation,
    Limit,
    Permission,
    Selector,
    Structured,
    Tool,
    fenced_json,
)
from services.mcp_core.tools.explaining import explain
from services.mcp_core.tools.listing import Found, collect, further

OBJECT_CHARACTERS = 24_000
"""Longest object in an answer, as JSON; beyond it the caller is asked to pick fields."""

STRING_CHARACTERS = 4_000
"""Longest text within an object; the rest is cut."""

KindName = Annotated[
    str,
    Constraint(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$",
        description="As kubectl takes it: pods, deploy, StatefulSet, ingresses.networking.k8s.io, widgets.example.com.",
    ),
]

AnyName = Annotated[
    str, Constraint(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:-]{0,252})$", description="Name of the object.")
]

COMMON = tuple(
    Permission("list", group, plural)
    for group, plurals in (
        ("", ("pods", "services", "configmaps", "secrets", "events", "persistentvolumeclaims", "nodes", "namespaces")),
        ("", ("serviceaccounts", "endpoints", "persistentvolumes", "resourcequotas", "limitranges")),
        ("apps", ("deployments", "statefulsets", "daemonsets", "replicasets", "controllerrevisions")),
        ("batch", ("jobs", "cronjobs")),
        ("autoscaling", ("horizontalpodautoscalers",)),
        ("networking.k8s.io", ("ingresses", "networkpolicies")),
        ("discovery.k8s.io", ("endpointslices",)),
        ("policy", ("poddisruptionbudgets",)),
        ("storage.k8s.io", ("storageclasses",)),
        ("rbac.authorization.k8s.io", ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
    )
    for plural in plurals
)
"""Who may list one of these is offered the generic tools."""


class ListResourcesArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of list_resources."""

    kind: KindName
    namespace: (
        Annotated[str, Constraint(pattern=DNS1123_LABEL, description="List this namespace; none for what has none.")]
        | UnsetType
    ) = UNSET
    all_namespaces: Annotated[
        bool, Constraint(description="Instead of `namespace`: list every namespace that you may list.")
    ] = False
    label_selector: Selector = ""
    field_selector: FieldSelector = ""
    limit: Limit | UnsetType = UNSET
    continue_: Continue = msgspec.field(name="continue", default="")
    wide: Annotated[bool, Constraint(description="All columns, as `kubectl get -o wide`.")] = False


class GetResourceArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of get_resource."""

    kind: KindName
    name: AnyName
    namespace: (
        Annotated[str, Constraint(pattern=DNS1123_LABEL, description="Its namespace; none for what has none.")]
        | UnsetType
    ) = UNSET
    fields: FieldNames = []
    """Paths such as spec.replicas or status.conditions; without them, the whole object."""


class ExplainArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of explain_resource."""

    kind: KindName
    path: Annotated[
        str, Constraint(pattern=r"^[A-Za-z0-9_.$-]{0,512}$", description="Field to explain, e.g. spec.template.spec.")
    ] = ""


class ResourceTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Answer of list_resources: a line for each object. With several namespaces, the first column says which."""

    kind: str
    columns: list[str]
    rows: list[list[Any]]
    truncated: bool
    continue_: str | UnsetType = msgspec.field(name="continue", default=UNSET)
    remaining: int | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class ResourceObject(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of get_resource: the object without secrets, or path to value for the `fields` asked for."""

    kind: str
    object: dict[str, Any]
    truncated: bool
    hint: str | UnsetType = UNSET


class FieldHelp(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A field in an answer."""

    name: str
    type: str
    description: str
    required: bool


class Explanation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of explain_resource."""

    kind: str
    api_version: str
    path: str
    type: str
    description: str
    fields: list[FieldHelp]
    truncated: bool


async def _list_resources(invocation: Invocation) -> Structured:
    kind = invocation.resolved_kind
    columns = Columns(())
    # Namespaces are listed whole, and those shown that the caller's grants name.
    decided = frozenset(invocation.namespaces) if not kind.namespaced and invocation.namespaces != ("",) else None

    async def ask(namespace: str, limit: int, after: str) -> Page[Row]:
        nonlocal columns
        columns, page = await invocation.cluster.table(
            ObjectRef(kind.resource, namespace),
            label_selector=invocation.arguments["label_selector"],
            field_selector=invocation.arguments["field_selector"],
            limit=limit,
            after=after,
        )
        rows = [row for row in page.items if decided is None or row.name in decided]
        return Page(rows, page.truncated, page.after, None if decided is not None else page.remaining)

    whole = invocation if decided is None else replace(invocation, namespaces=("",))
    found: Found[Row] = await collect(whole, ask)
    return {**_table(kind.name, columns, found, invocation), "truncated": found.next is not None, **further(found)}


def _table(kind: str, columns: Columns, found: Found[Row], invocation: Invocation) -> Structured:
    shown = [index for index in range(len(columns.names)) if invocation.arguments["wide"] or index not in columns.wide]
    placed = bool(invocation.arguments["all_namespaces"])
    names = [columns.names[index] for index in shown]
    rows = [
        [
            *([row.namespace] if placed else []),
            *(_cell(columns.names[index], row.cells[index]) for index in shown if index < len(row.cells)),
        ]
        for row in found.items
    ]
    return {"kind": kind, "columns": ["Namespace", *names] if placed else names, "rows": rows}


def _cell(column: str, cell: Any) -> Any:
    if cell is None or isinstance(cell, bool | int | float):
        return cell
    return redact_named(column, cell if isinstance(cell, str) else str(cell))[:500]


async def _get_resource(invocation: Invocation) -> Structured:
    kind = invocation.resolved_kind
    namespace = invocation.namespaces[0] if kind.namespaced else ""
    found = await invocation.cluster.get(ObjectRef(kind.resource, namespace, invocation.arguments["name"]), dict)
    # An object may be large; beside the event loop it holds up nobody.
    shown = _cut(await asyncio.to_thread(redact_object, found, kind.name))
    paths: list[str] = invocation.arguments["fields"]
    if paths:
        shown = {path: value for path in paths if (value := _pick(shown, path.split("."))) is not None}
    if len(msgspec.json.encode(shown)) <= OBJECT_CHARACTERS:
        return {"kind": kind.name, "object": shown, "truncated": False}
    hint = (
        f"It is longer than {OBJECT_CHARACTERS} characters. `fields` picks parts, e.g. {', '.join(_paths(shown)[:8])}."
    )
    short = {key: value for key, value in shown.items() if key in ("apiVersion", "kind")}
    metadata = shown.get("metadata")
    if isinstance(metadata, dict):
        short["metadata"] = {key: metadata[key] for key in ("name", "namespace") if key in metadata}
    return {"kind": kind.name, "object": short, "truncated": True, "hint": hint}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= STRING_CHARACTERS else f"{value[:STRING_CHARACTERS]}…"
    if isinstance(value, dict):
        return {key: _cut(one) for key, one in value.items()}
    return [_cut(one) for one in value] if isinstance(value, list) else value


def _pick(value: Any, path: list[str]) -> Any:
    """The value at a path; of a list, that of each item. Keys may hold dots: the longest that fits counts."""
    if not path:
        return value
    if isinstance(value, list):
        found = [_pick(one, path) for one in value]
        return found if any(one is not None for one in found) else None
    if not isinstance(value, dict):
        return None
    for size in range(len(path), 0, -1):
        if (key := ".".join(path[:size])) in value:
            return _pick(value[key], path[size:])
    return None


def _paths(value: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}.{inner}" if inner else key
        for key, one in value.items()
        for inner in (one if isinstance(one, dict) and key in ("spec", "status", "metadata") else ("",))
    ]


async def _explain_resource(invocation: Invocation) -> Structured:
    kind = invocation.resolved_kind
    resource = kind.resource
    schemas = await invocation.cluster.schemas(resource)
    told = explain(schemas, resource.group, resource.version, kind.name, invocation.arguments["path"])
    if told is None:
        raise NotFound(f"{kind.name} has no field {invocation.arguments['path'][:64]!r} that the cluster describes.")
    version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    return {"kind": kind.name, "api_version": version, "path": invocation.arguments["path"], **told}


def _name(arguments: Arguments) -> str:
    return str(arguments["name"])


TOOLS = (
    Tool(
        name="list_resources",
        title="List any kind",
        description="Objects of any kind, custom ones included, in the columns of kubectl. "
        "Give `namespace`, or `all_namespaces: true`, unless the kind has no namespaces.",
        arguments=ListResourcesArguments,
        result=ResourceTable,
        permission=COMMON[0],
        offered_for=COMMON,
        run=_list_resources,
        lists=True,
        any_kind=True,
        read_only=True,
        idempotent=True,
        text=fenced_json,
    ),
    Tool(
        name="get_resource",
        title="Read any object",
        description="One object of any kind, custom ones included, without secrets; `fields` picks parts by path.",
        arguments=GetResourceArguments,
        result=ResourceObject,
        permission=COMMON[0],
        offered_for=COMMON,
        run=_get_resource,
        any_kind=True,
        read_only=True,
        idempotent=True,
        resource_name=_name,
        text=fenced_json,
    ),
    Tool(
        name="explain_resource",
        title="Explain a kind",
        description="What the fields of a kind mean, as kubectl explain says it, by the cluster's own description.",
        arguments=ExplainArguments,
        result=Explanation,
        permission=COMMON[0],
        offered_for=COMMON,
        run=_explain_resource,
        any_kind=True,
        anywhere=True,
        read_only=True,
        idempotent=True,
        text=fenced_json,
    ),
)
