"""Lists: one request per decided namespace, a few at a time, cut to what an agent can read, with a way to go on.

Without `limit`, an answer holds one page of at most DEFAULT_ITEMS and DEFAULT_CHARACTERS. What was left out is
reached by `continue`, a token of ours: in which namespace, after which page of the cluster, behind how many items
of it. It grants nothing, since the namespaces of every call are decided anew.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from services.common.errors import InvalidArgument
from services.mcp_core.ports import ObjectRef, Page, Resource
from services.mcp_core.tools.base import Arguments, Invocation, Structured

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

AT_ONCE = 8
"""Namespaces asked at the same time for one call."""

DEFAULT_ITEMS = 60
DEFAULT_CHARACTERS = 12_000
"""Bounds of an answer whose caller named no limit: about 4,000 tokens, twice that with the text beside it."""

PAGE = 500
"""Most items of one request, so that memory is bounded by a page and not by the cluster."""


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of an object's metadata that lists show."""

    name: str
    namespace: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""


class Listing(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What every list answers beside its items. `truncated`: there is more, and `hint` says how to get it."""

    truncated: bool
    continue_: str | UnsetType = msgspec.field(name="continue", default=UNSET)
    remaining: int | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class Position(NamedTuple):
    """Where a list goes on."""

    namespace: str = ""
    after: str = ""
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Found(Generic[R]):
    """A part of a list. next: where it goes on, None at its end. remaining: how many are left, if known."""

    items: list[R]
    next: Position | None = None
    remaining: int | None = None


async def list_objects(
    invocation: Invocation, resource: Resource, item: type[T], summarize: Callable[[T], R]
) -> Found[R]:
    """Summaries of the objects in the invocation's namespaces.

    Raises:
        InvalidArgument: the `continue` token is not one of ours.
        DomainError: of the first namespace that failed; a part of the whole is never passed off as the whole.
    """

    async def ask(namespace: str, limit: int, after: str) -> Page[R]:
        page = await invocation.cluster.list(
            ObjectRef(resource, namespace),
            item,
            label_selector=invocation.arguments["label_selector"],
            field_selector=invocation.arguments["field_selector"],
            limit=limit,
            after=after,
        )
        return Page([summarize(one) for one in page.items], page.truncated, page.after, page.remaining)

    return await collect(invocation, ask)


async def collect(invocation: Invocation, ask: Callable[[str, int, str], Any]) -> Found[Any]:
    """Pages of `ask(namespace, limit, after)` over the invocation's namespaces, cut to the limit. Raises as above."""
    given: int | None = invocation.arguments.get("limit")
    limit = given or DEFAULT_ITEMS
    start = _position(invocation.arguments)
    left = [namespace for namespace in sorted(invocation.namespaces) if namespace >= start.namespace]
    if left[:1] != [start.namespace]:
        start = Position()
    if len(left) == 1:
        return await _one(left[0], start, limit, ask, bounded=given is None)
    slots = asyncio.Semaphore(AT_ONCE)

    async def first(namespace: str) -> Page[Any]:
        after = start.after if namespace == start.namespace else ""
        async with slots:
            return await ask(namespace, min(limit, PAGE), after)  # type: ignore[no-any-return]

    pages = await _all([asyncio.ensure_future(first(namespace)) for namespace in left])
    items: list[Any] = []
    room = _Room(limit, given is None)
    for namespace, page in zip(left, pages, strict=True):
        after, skip = (start.after, start.skip) if namespace == start.namespace else ("", 0)
        fitting = room.take(page.items[skip:])
        items += page.items[skip : skip + fitting]
        if skip + fitting < len(page.items):
            return Found(items, Position(namespace, after, skip + fitting))
        if page.truncated:
            return Found(items, Position(namespace, page.after, 0))
    return Found(items)


async def _one(
    namespace: str, start: Position, limit: int, ask: Callable[[str, int, str], Any], *, bounded: bool
) -> Found[Any]:
    items: list[Any] = []
    room = _Room(limit, bounded)
    after, skip = start.after, start.skip
    while True:
        page: Page[Any] = await ask(namespace, min(limit - len(items) + skip, PAGE), after)
        fitting = room.take(page.items[skip:])
        items += page.items[skip : skip + fitting]
        left = len(page.items) - skip - fitting
        remaining = page.remaining + left if page.remaining is not None else None if page.truncated else left
        if left > 0:
            return Found(items, Position(namespace, after, skip + fitting), remaining)
        if not page.truncated:
            return Found(items)
        if len(items) >= limit or bounded:
            return Found(items, Position(namespace, page.after, 0), remaining)
        after, skip = page.after, 0


class _Room:
    """How much still fits into an answer."""

    def __init__(self, items: int, bounded: bool) -> None:
        self._items = items
        self._characters = DEFAULT_CHARACTERS if bounded else None
        self._untouched = True

    def take(self, items: Sequence[Any]) -> int:
        """How many of these fit; they count as taken."""
        fitting = min(len(items), self._items)
        if self._characters is not None:
            for index in range(fitting):
                self._characters -= len(msgspec.json.encode(items[index]))
                if self._characters < 0:
                    # One item too large for the bound is shown all the same: the list must get past it.
                    fitting = max(index, 1 if self._untouched else 0)
                    break
                self._untouched = False
        self._items -= fitting
        return fitting


def listed(key: str, found: Found[Any], arguments: Arguments, item: type[msgspec.Struct]) -> Structured:
    """The answer of a list tool: its items under `key`, only the `fields` asked for, and how to go on.

    Raises:
        InvalidArgument: a field that the items do not have.
    """
    items: list[dict[str, Any]] = msgspec.to_builtins(found.items)
    if fields := arguments.get("fields"):
        known = item.__struct_encode_fields__
        for name in fields:
            if name not in known:
                raise InvalidArgument(f"Argument `fields` names {name[:64]!r}; known: {', '.join(known)}.")
        items = [{name: one[name] for name in fields if name in one} for one in items]
    return {key: items, "truncated": found.next is not None, **further(found)}


def further(found: Found[Any]) -> Structured:
    """How to get the rest of a list; nothing where there is none."""
    if found.next is None:
        return {}
    result: Structured = {"continue": token(found.next)}
    more = "more"
    if found.remaining is not None:
        result["remaining"] = found.remaining
        more = f"{found.remaining} more"
    result["hint"] = (
        f"{len(found.items)} shown, there are {more}. Narrow it with `namespace`, `label_selector` or "
        "`field_selector`, shorten it with `fields`, raise `limit`, or go on with `continue`."
    )
    return result


def token(position: Position) -> str:
    """The `continue` of an answer."""
    text = json.dumps(position, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(arguments: Arguments) -> Position:
    given: str = arguments.get("continue", "")
    if not given:
        return Position()
    try:
        namespace, after, skip = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    except (binascii.Error, ValueError, TypeError):
        raise InvalidArgument("Argument `continue` is not one that an answer gave.") from None
    texts = all(isinstance(one, str) and one.isprintable() for one in (namespace, after))
    if not (texts and isinstance(skip, int) and 0 <= skip <= PAGE):
        raise InvalidArgument("Argument `continue` is not one that an answer gave.")
    return Position(namespace, after, skip)


async def _all(tasks: list[asyncio.Future[Page[Any]]]) -> list[Page[Any]]:
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
