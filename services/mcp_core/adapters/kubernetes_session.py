"""The cluster as one caller: references become paths, answers become structs. One method, one request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import msgspec

from services.common.errors import FailedPrecondition, NotFound
from services.mcp_core.adapters.kubernetes_wire import decode, path
from services.mcp_core.adapters.kubernetes_writes import KubernetesWrites
from services.mcp_core.naming import is_path_segment
from services.mcp_core.ports import Columns, Kind, LogStream, LogText, ObjectRef, Page, Resource, Row

T = TypeVar("T")

_PODS = Resource("", "v1", "pods")

_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

MAX_KINDS = 2000
"""Most kinds that are read of a cluster's discovery."""


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Metadata of a collection; `continue` is set where there is more."""

    more: str = msgspec.field(name="continue", default="")
    remaining_item_count: int | None = None


class ObjectList(msgspec.Struct, Generic[T], frozen=True):
    """A collection as the cluster sends it."""

    items: list[T] | None = None
    metadata: ListMeta = ListMeta()


class _Column(msgspec.Struct, frozen=True):
    name: str
    priority: int = 0


class _Place(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _Partial(msgspec.Struct, frozen=True):
    metadata: _Place = _Place()


class _Row(msgspec.Struct, frozen=True):
    cells: list[Any] = []
    object: _Partial = _Partial()


class _Table(msgspec.Struct, frozen=True, rename="camel"):
    kind: str = ""
    column_definitions: list[_Column] = []
    rows: list[_Row] | None = None
    metadata: ListMeta = ListMeta()


class _ResponseKind(msgspec.Struct, frozen=True):
    kind: str = ""


class _Discovered(msgspec.Struct, frozen=True, rename="camel"):
    resource: str
    scope: str = ""
    singular_resource: str = ""
    response_kind: _ResponseKind | None = None
    short_names: list[str] | None = None
    verbs: list[str] = []


class _Version(msgspec.Struct, frozen=True):
    version: str
    resources: list[_Discovered] | None = None


class _Group(msgspec.Struct, frozen=True):
    metadata: _Place = _Place()
    versions: list[_Version] = []


class _Groups(msgspec.Struct, frozen=True):
    kind: str = ""
    items: list[_Group] = []


class _Components(msgspec.Struct, frozen=True):
    schemas: dict[str, Any] = {}


class _OpenApi(msgspec.Struct, frozen=True):
    components: _Components = _Components()


@dataclass(frozen=True, slots=True)
class KubernetesSession(KubernetesWrites):
    """The cluster as one caller for one request (ports.ClusterSession)."""

    async def get(self, ref: ObjectRef, shape: type[T]) -> T:
        """One object."""
        answer = await self.cluster.send("GET", path(ref), self.headers, self.deadline)
        return decode(answer.body, shape)

    async def list(
        self,
        ref: ObjectRef,
        item: type[T],
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        after: str = "",
    ) -> Page[T]:
        """One page of a collection."""
        target = f"{path(ref)}?{_selection(label_selector, field_selector, limit, after)}"
        answer = await self.cluster.send("GET", target, self.headers, self.deadline)
        found: ObjectList[T] = decode(answer.body, _list_of(item))  # type: ignore[arg-type]
        return _page(found.items or [], found.metadata)

    async def table(
        self, ref: ObjectRef, *, label_selector: str = "", field_selector: str = "", limit: int = 500, after: str = ""
    ) -> tuple[Columns, Page[Row]]:
        """One page of a collection, printed by the cluster.

        Raises:
            FailedPrecondition: the cluster does not print this kind.
        """
        target = f"{path(ref)}?{_selection(label_selector, field_selector, limit, after)}"
        answer = await self.cluster.send("GET", target, self.headers, self.deadline, accept=_TABLE)
        found = decode(answer.body, _Table)
        if found.kind != "Table":
            raise FailedPrecondition(f"The cluster does not print {ref.resource.plural}; get_resource reads one.")
        columns = Columns(
            tuple(column.name for column in found.column_definitions),
            frozenset(index for index, column in enumerate(found.column_definitions) if column.priority > 0),
        )
        rows = [
            Row(row.object.metadata.name, row.object.metadata.namespace, tuple(row.cells)) for row in found.rows or []
        ]
        return columns, _page(rows, found.metadata)

    async def kinds(self) -> tuple[Kind, ...]:
        """Everything that can be listed, the core group first, each in its preferred version.

        Raises:
            FailedPrecondition: the cluster has no aggregated discovery, so it is older than Kubernetes 1.30.
        """
        found: list[Kind] = []
        for root in ("/api", "/apis"):
            answer = await self.cluster.send("GET", root, self.headers, self.deadline, accept=_DISCOVERY)
            groups = decode(answer.body, _Groups)
            if groups.kind != "APIGroupDiscoveryList":
                raise FailedPrecondition(
                    "The cluster cannot be asked for its kinds; it needs Kubernetes 1.30 or newer."
                )
            for group in groups.items:
                found += _kinds(group)
        return tuple(found[:MAX_KINDS])

    async def schemas(self, resource: Resource) -> Mapping[str, Any]:
        """The OpenAPI v3 schemas of a group and version."""
        root = f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"
        if not all(map(is_path_segment, root.split("/"))):
            raise NotFound("There is no such group.")
        answer = await self.cluster.send("GET", f"/openapi/v3/{root}", self.headers, self.deadline)
        return decode(answer.body, _OpenApi).components.schemas

    async def logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        tail_lines: int,
        previous: bool,
        limit_bytes: int,
        since_seconds: int = 0,
        timestamps: bool = False,
    ) -> LogText:
        """The end of a container's log."""
        query = {"tailLines": str(tail_lines), "limitBytes": str(limit_bytes)}
        if since_seconds:
            query["sinceSeconds"] = str(since_seconds)
        if container:
            query["container"] = container
        if previous:
            query["previous"] = "true"
        if timestamps:
            query["timestamps"] = "true"
        target = f"{path(ObjectRef(_PODS, namespace, pod, 'log'))}?{urlencode(query)}"
        answer = await self.cluster.send("GET", target, self.headers, self.deadline, cut_at=limit_bytes)
        truncated = answer.truncated or len(answer.body) >= limit_bytes
        return LogText(text=answer.body.decode("utf-8", "replace"), truncated=truncated)

    def follow_logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        tail_lines: int | None = None,
        since_seconds: int = 0,
        since_time: str = "",
    ) -> AbstractAsyncContextManager[LogStream]:
        """A container's log as it is written."""
        query = {"follow": "true", "timestamps": "true"}
        if tail_lines is not None:
            query["tailLines"] = str(tail_lines)
        if since_seconds:
            query["sinceSeconds"] = str(since_seconds)
        if since_time:
            query["sinceTime"] = since_time
        if container:
            query["container"] = container
        target = f"{path(ObjectRef(_PODS, namespace, pod, 'log'))}?{urlencode(query)}"
        return self.cluster.stream(target, self.headers, self.deadline, self.caller)


def _selection(label_selector: str, field_selector: str, limit: int, after: str) -> str:
    query = {"limit": str(limit), "labelSelector": label_selector, "fieldSelector": field_selector, "continue": after}
    return urlencode({key: value for key, value in query.items() if value})


def _page(items: list[T], metadata: ListMeta) -> Page[T]:
    return Page(items, bool(metadata.more), metadata.more, metadata.remaining_item_count)


def _kinds(group: _Group) -> list[Kind]:
    """The kinds of a group that can be listed, each in the first version that has it: that is the preferred one."""
    found: dict[str, Kind] = {}
    for version in group.versions:
        for entry in version.resources or []:
            if "list" in entry.verbs and is_path_segment(entry.resource) and entry.resource not in found:
                found[entry.resource] = Kind(
                    Resource(group.metadata.name, version.version, entry.resource),
                    entry.response_kind.kind if entry.response_kind else "",
                    entry.scope == "Namespaced",
                    entry.singular_resource,
                    tuple(entry.short_names or ()),
                )
    return list(found.values())


@cache
def _list_of(item: Any) -> Any:
    return ObjectList[item]
