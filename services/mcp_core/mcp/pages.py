"""Pages of a list in a fixed order. A cursor says after which item to go on, so it fits any replica and any moment."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.common.errors import InvalidArgument

T = TypeVar("T")

PAGE = 100
"""Items in one answer."""


def page(
    items: Sequence[T], key: Callable[[T], str], cursor: str | None, size: int = PAGE
) -> tuple[Sequence[T], str | None]:
    """The items after the cursor and the next cursor; ``items`` are sorted by ``key``.

    Raises:
        InvalidArgument: the cursor is none of ours.
    """
    after = _decoded(cursor) if cursor is not None else ""
    rest = [item for item in items if key(item) > after] if after else items
    shown = rest[:size]
    return shown, _encoded(key(shown[-1])) if len(rest) > size else None


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _decoded(cursor: str) -> str:
    try:
        return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise InvalidArgument("The cursor is none that this server gave; ask for the list without one.") from None
