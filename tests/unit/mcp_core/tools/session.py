"""A cluster session over objects in memory, for tests of tools: it keeps what it was asked."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from services.common.errors import NotFound
from services.mcp_core.ports import Columns, Kind, LogStream, LogText, ObjectRef, Page, PatchForm, Resource, Row

T = TypeVar("T")


class Written:
    """A log that comes in these pieces, and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)

    async def read(self, seconds: float) -> bytes | None:
        return self.left.pop(0) if self.left else None


@dataclass
class MemorySession:
    """`objects`: plural -> objects as the cluster would send them. `asked`: (verb, ref, rest) of each request."""

    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    log: LogText = field(default_factory=lambda: LogText("", False))
    columns: Columns = field(default_factory=lambda: Columns(()))
    discovered: tuple[Kind, ...] = ()
    openapi: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, ObjectRef, Any]] = field(default_factory=list)
    stream: LogStream | None = None
    following: int = 0

    async def get(self, ref: ObjectRef, shape: type[T]) -> T:
        self.asked.append(("get", ref, None))
        return msgspec.json.decode(msgspec.json.encode(self._one(ref)), type=shape)

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
        """`after` is the number of items before."""
        rest = {"label_selector": label_selector, "field_selector": field_selector, "limit": limit, "after": after}
        self.asked.append(("list", ref, rest))
        found = self._in(ref)
        start = int(after or 0)
        left = len(found) - start - limit
        return Page(
            msgspec.json.decode(msgspec.json.encode(found[start : start + limit]), type=list[item]),  # type: ignore[valid-type]
            left > 0,
            str(start + limit) if left > 0 else "",
            left if left > 0 else None,
        )

    async def table(
        self, ref: ObjectRef, *, label_selector: str = "", field_selector: str = "", limit: int = 500, after: str = ""
    ) -> tuple[Columns, Page[Row]]:
        self.asked.append(("table", ref, {"label_selector": label_selector, "limit": limit, "after": after}))
        rows = [
            Row(
                one["metadata"]["name"],
                one["metadata"].get("namespace", ""),
                tuple(one.get("cells", [one["metadata"]["name"]])),
            )
            for one in self._in(ref)
        ]
        return self.columns, Page(rows[:limit], len(rows) > limit, "more" if len(rows) > limit else "")

    async def kinds(self) -> tuple[Kind, ...]:
        self.asked.append(("kinds", ObjectRef(Resource("", "", "")), None))
        return self.discovered

    async def schemas(self, resource: Resource) -> Mapping[str, Any]:
        self.asked.append(("schemas", ObjectRef(resource), None))
        return self.openapi

    async def create(self, ref: ObjectRef, body: Mapping[str, Any], shape: type[T], *, dry_run: bool = False) -> T:
        self.asked.append(("create", ref, {"body": body, "dry_run": dry_run}))
        return msgspec.convert(body, shape)

    async def patch(
        self, ref: ObjectRef, change: Any, shape: type[T], *, form: PatchForm = "merge", dry_run: bool = False
    ) -> T:
        self.asked.append(("patch", ref, change))
        changed = self._one(ref) if isinstance(change, list) else _merged(self._one(ref), change)
        return msgspec.convert(changed, shape)

    async def apply(
        self, ref: ObjectRef, body: Mapping[str, Any], shape: type[T], *, force: bool = False, dry_run: bool = False
    ) -> T:
        self.asked.append(("apply", ref, {"body": body, "force": force, "dry_run": dry_run}))
        return msgspec.convert(body, shape)

    async def delete(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        self.asked.append(("delete", ref, uid))
        self._one(ref)

    async def evict(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        self.asked.append(("evict", ref, uid))
        self._one(ref)

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
        rest = {"container": container, "tail": tail_lines, "previous": previous, "since": since_seconds}
        self.asked.append(("logs", ObjectRef(Resource("", "v1", "pods"), namespace, pod, "log"), rest))
        return self.log

    @asynccontextmanager
    async def follow_logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        tail_lines: int | None = None,
        since_seconds: int = 0,
        since_time: str = "",
    ) -> AsyncIterator[LogStream]:
        rest = {"container": container, "tail": tail_lines, "since": since_time or since_seconds}
        self.asked.append(("follow", ObjectRef(Resource("", "v1", "pods"), namespace, pod, "log"), rest))
        self.following += 1
        try:
            yield self.stream or Written(self.log.text.encode())
        finally:
            self.following -= 1

    def _in(self, ref: ObjectRef) -> Sequence[dict[str, Any]]:
        return [
            one
            for one in self.objects.get(ref.resource.plural, [])
            if ref.namespace in {"", one["metadata"].get("namespace", "")}
        ]

    def _one(self, ref: ObjectRef) -> dict[str, Any]:
        for one in self.objects.get(ref.resource.plural, []):
            if one["metadata"]["name"] == ref.name and one["metadata"].get("namespace", "") == ref.namespace:
                return one
        raise NotFound(f"{ref.resource.plural} {ref.name} not found")


def _merged(target: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, Mapping):
        return change
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in change.items():
        result.pop(key, None)
        if value is not None:
            result[key] = _merged(target.get(key) if isinstance(target, Mapping) else None, value)
    return result
