"""Lists over the decided namespaces: one request per namespace, a few at a time, one bound for all (R14)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from services.mcp_core.ports import ObjectRef, Page, Resource
from services.mcp_core.tools.base import Invocation

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

AT_ONCE = 8
"""Namespaces asked at the same time for one call."""


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of an object's metadata that lists show."""

    name: str
    namespace: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""


async def list_objects(
    invocation: Invocation, resource: Resource, item: type[T], summarize: Callable[[T], R]
) -> tuple[list[R], bool]:
    """Summaries of the objects in the invocation's namespaces, and whether there are more than it may return.

    Raises:
        DomainError: of the first namespace that failed; a part of the whole is never passed off as the whole.
    """
    limit: int = invocation.arguments["limit"]
    selector: str = invocation.arguments["label_selector"]
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(namespace: str) -> Page[T]:
        async with slots:
            return await invocation.cluster.list(
                ObjectRef(resource, namespace), item, label_selector=selector, limit=limit
            )

    if len(invocation.namespaces) == 1:
        pages = [await one(invocation.namespaces[0])]
    else:
        pages = await _all([asyncio.ensure_future(one(namespace)) for namespace in invocation.namespaces])
    summaries = [summarize(found) for page in pages for found in page.items]
    return summaries[:limit], len(summaries) > limit or any(page.truncated for page in pages)


async def _all(tasks: list[asyncio.Future[Page[T]]]) -> list[Page[T]]:
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
