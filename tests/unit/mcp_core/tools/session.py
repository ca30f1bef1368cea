"""A cluster session over objects in memory, for tests of tools: it keeps what it was asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from services.common.errors import NotFound
from services.mcp_core.ports import LogText, ObjectRef, Page

T = TypeVar("T")


@dataclass
class MemorySession:
    """`objects`: plural -> objects as the cluster would send them. `asked`: (verb, ref, rest) of each request."""

    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    log: LogText = field(default_factory=lambda: LogText("", False))
    asked: list[tuple[str, ObjectRef, Any]] = field(default_factory=list)

    async def get(self, ref: ObjectRef, shape: type[T]) -> T:
        self.asked.append(("get", ref, None))
        return msgspec.convert(self._one(ref), shape)

    async def list(self, ref: ObjectRef, item: type[T], *, label_selector: str = "", limit: int = 500) -> Page[T]:
        self.asked.append(("list", ref, {"label_selector": label_selector, "limit": limit}))
        found = [
            one
            for one in self.objects.get(ref.resource.plural, [])
            if ref.namespace in {"", one["metadata"].get("namespace", "")}
        ]
        return Page(msgspec.convert(found[:limit], list[item]), len(found) > limit)  # type: ignore[valid-type]

    async def patch(self, ref: ObjectRef, merge_patch: Mapping[str, Any], shape: type[T]) -> T:
        self.asked.append(("patch", ref, merge_patch))
        return msgspec.convert({**self._one(ref), **merge_patch}, shape)

    async def delete(self, ref: ObjectRef, *, uid: str = "") -> None:
        self.asked.append(("delete", ref, uid))
        self._one(ref)

    async def logs(
        self, namespace: str, pod: str, *, container: str, tail_lines: int, previous: bool, limit_bytes: int
    ) -> LogText:
        return self.log

    def _one(self, ref: ObjectRef) -> dict[str, Any]:
        for one in self.objects.get(ref.resource.plural, []):
            if one["metadata"]["name"] == ref.name and one["metadata"]["namespace"] == ref.namespace:
                return one
        raise NotFound(f"{ref.resource.plural} {ref.name} not found")
