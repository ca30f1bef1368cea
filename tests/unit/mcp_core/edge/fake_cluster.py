"""A cluster in memory, which remembers as whom it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from services.common.deadline import Deadline
from services.common.errors import DomainError, NotFound
from services.mcp_core.ports import (
    Columns,
    Impersonation,
    Kind,
    LogStream,
    LogText,
    ObjectRef,
    Page,
    Resource,
    Row,
)


class FakeSession:
    """Only lists namespaces."""

    def __init__(self, cluster: FakeCluster, impersonation: Impersonation | None) -> None:
        self.cluster = cluster
        self.impersonation = impersonation

    async def kinds(self) -> tuple[Kind, ...]:
        if self.cluster.error:
            raise self.cluster.error
        return self.cluster.kinds

    async def table(self, ref: ObjectRef, **selection: Any) -> tuple[Columns, Page[Row]]:
        rows = [Row(name, place, (name,)) for place, name in self.cluster.objects if place == ref.namespace]
        return Columns(("Name",)), Page(rows, False)

    async def schemas(self, resource: Resource) -> Mapping[str, Any]:
        raise NotImplementedError

    async def list(
        self,
        ref: ObjectRef,
        item: Any,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        after: str = "",
    ) -> Page[Any]:
        self.cluster.lists.append((ref, self.impersonation))
        if self.cluster.error:
            raise self.cluster.error
        found = [{"metadata": {"name": name}, "status": {"phase": "Active"}} for name in self.cluster.namespaces]
        return Page([msgspec.convert(each, item) for each in found], False)

    async def get(self, ref: ObjectRef, shape: Any) -> Any:
        found = self.cluster.objects.get((ref.namespace, ref.name))
        if found is None:
            raise NotFound(f"There is no {ref.name!r}.")
        return found

    async def create(self, ref: ObjectRef, body: Mapping[str, Any], shape: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def apply(self, ref: ObjectRef, body: Mapping[str, Any], shape: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def evict(self, ref: ObjectRef, **options: Any) -> None:
        raise NotImplementedError

    async def patch(self, ref: ObjectRef, change: Any, shape: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def delete(self, ref: ObjectRef, **options: Any) -> None:
        raise NotImplementedError

    async def logs(self, *args: Any, **kwargs: Any) -> LogText:
        raise NotImplementedError

    def follow_logs(self, *args: Any, **kwargs: Any) -> AbstractAsyncContextManager[LogStream]:
        raise NotImplementedError


class FakeCluster:
    """Remembers as whom it was asked."""

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self.namespaces = ["default", "dev-a", "dev-b", "prod"]
        self.sessions: list[Impersonation | None] = []
        self.lists: list[tuple[ObjectRef, Impersonation | None]] = []
        self.error: DomainError | None = None
        self.kinds: tuple[Kind, ...] = ()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}

    def session(self, impersonation: Impersonation | None, deadline: Deadline) -> FakeSession:
        self.sessions.append(impersonation)
        return FakeSession(self, impersonation)

    async def version(self, deadline: Deadline) -> str:
        if self.error:
            raise self.error
        return "v1.36.0"

    async def close(self) -> None:
        """Nothing to close."""
