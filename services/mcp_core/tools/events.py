"""Events: the newest first, whatever order the cluster keeps them in."""

from __future__ import annotations

import heapq
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import InvalidArgument
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.ports import ClusterSession, ObjectRef, Resource
from services.mcp_core.redaction import redact
from services.mcp_core.tools.base import (
    FieldNames,
    Invocation,
    ObjectName,
    Permission,
    Structured,
    Tool,
    fenced_json,
)
from services.mcp_core.tools.listing import DEFAULT_CHARACTERS, PAGE

EVENTS = Resource("", "v1", "events")
EVENTS_PERMISSION = Permission("list", "", "events")

MAX_SCANNED = 20_000
"""Most events that are looked at for one call; only the newest of them are held."""


class EventArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of list_events."""

    namespace: Annotated[str, Constraint(pattern=DNS1123_LABEL, description="List this namespace.")] | UnsetType = UNSET
    all_namespaces: Annotated[
        bool, Constraint(description="Instead of `namespace`: every namespace whose events you may list.")
    ] = False
    name: ObjectName | UnsetType = UNSET
    """Events about the object of this name."""
    kind: Annotated[str, Constraint(pattern="^[A-Za-z]{1,63}$", description='Events about this kind, e.g. "Pod".')] = ""
    type: Annotated[Literal["Warning", "Normal", ""], Constraint(description="Only these.")] = ""
    limit: Annotated[int, Constraint(ge=1, le=500, description="How many of the newest.")] = 50
    fields: FieldNames = []


class Involved(msgspec.Struct, frozen=True):
    """What an event is about."""

    kind: str = ""
    name: str = ""
    namespace: str = ""


class Series(msgspec.Struct, frozen=True, rename="camel"):
    """A repeated event (events.k8s.io/v1)."""

    count: int = 0
    last_observed_time: str | None = None


class EventMeta(msgspec.Struct, frozen=True, rename="camel"):
    """When an event was made."""

    namespace: str = ""
    creation_timestamp: str | None = None


class Event(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of an event."""

    metadata: EventMeta = EventMeta()
    involved_object: Involved = Involved()
    type: str = ""
    reason: str = ""
    message: str = ""
    count: int | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    series: Series | None = None

    def when(self) -> str:
        """When it happened last, RFC 3339 in UTC."""
        repeated = self.series.last_observed_time if self.series else None
        return repeated or self.last_timestamp or self.event_time or self.metadata.creation_timestamp or ""


class EventSummary(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An event in an answer. `object` is "Kind/name", `count` how often it was seen until `last`."""

    namespace: str = ""
    last: str = ""
    type: str = ""
    reason: str = ""
    object: str = ""
    message: str = ""
    count: int = 1


class EventList(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of list_events, newest first. `truncated`: there are older ones."""

    events: list[EventSummary]
    truncated: bool
    hint: str | UnsetType = UNSET


def summarize(event: Event) -> EventSummary:
    """An event as an answer shows it."""
    return EventSummary(
        namespace=event.metadata.namespace,
        last=event.when(),
        type=event.type,
        reason=redact(event.reason),
        object=f"{event.involved_object.kind}/{event.involved_object.name}",
        message=redact(event.message)[:1000],
        count=max(event.count or 0, event.series.count if event.series else 0, 1),
    )


async def newest(
    cluster: ClusterSession, namespaces: tuple[str, ...], field_selector: str, limit: int
) -> tuple[list[EventSummary], bool]:
    """The newest events, and whether there are more. Pages are read one by one, and only `limit` events held."""
    held: list[tuple[str, int, Event]] = []
    scanned = 0
    for namespace in namespaces:
        after = ""
        while True:
            page = await cluster.list(
                ObjectRef(EVENTS, namespace), Event, field_selector=field_selector, limit=PAGE, after=after
            )
            for event in page.items:
                scanned += 1
                heapq.heappush(held, (event.when(), scanned, event))
                if len(held) > limit:
                    heapq.heappop(held)
            after = page.after
            if not (page.truncated and after) or scanned >= MAX_SCANNED:
                break
    return [summarize(event) for _, _, event in sorted(held, reverse=True)], scanned > len(held)


async def _list_events(invocation: Invocation) -> Structured:
    arguments = invocation.arguments
    wanted = {
        "involvedObject.name": arguments.get("name", ""),
        "involvedObject.kind": arguments["kind"],
        "type": arguments["type"],
    }
    selector = ",".join(f"{key}={value}" for key, value in wanted.items() if value)
    events, more = await newest(invocation.cluster, invocation.namespaces, selector, arguments["limit"])
    shown = len(events)
    size = 0
    for index, event in enumerate(events):
        size += len(msgspec.json.encode(event))
        if size > DEFAULT_CHARACTERS and arguments["limit"] <= 50 and index:
            shown = index
            break
    items = msgspec.to_builtins(events[:shown])
    if fields := arguments["fields"]:
        known = EventSummary.__struct_encode_fields__
        if unknown := [name for name in fields if name not in known]:
            raise InvalidArgument(f"Argument `fields` names {unknown[0][:64]!r}; known: {', '.join(known)}.")
        items = [{name: item[name] for name in fields} for item in items]
    result: Structured = {"events": items, "truncated": more or shown < len(events)}
    if result["truncated"]:
        result["hint"] = (
            f"The newest {shown} are shown. Narrow it with `namespace`, `name`, `kind` or `type: Warning`, or raise "
            "`limit`."
        )
    return result


TOOLS = (
    Tool(
        name="list_events",
        title="List events",
        description="What happened lately, newest first: of a namespace, of one object (`kind`, `name`), or only "
        "warnings. Give `namespace`, or `all_namespaces: true`.",
        arguments=EventArguments,
        result=EventList,
        permission=EVENTS_PERMISSION,
        run=_list_events,
        lists=True,
        read_only=True,
        idempotent=True,
        text=fenced_json,
    ),
)
