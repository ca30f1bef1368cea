"""JSON as it comes from clients and goes to them."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from services.common.errors import InvalidArgument

MAX_DEPTH = 64
"""How deeply arrays and objects may lie in each other."""


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8. Half a surrogate pair, which UTF-8 has no form for, stays the escape that it was."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "backslashreplace")


def parse_json(body: bytes) -> Any:
    """A JSON value from untrusted bytes (RFC 8259: UTF-8, no NaN). Names are unique within an object (RFC 7493), so
    that no two readers of it can see different things.

    Raises:
        InvalidArgument: it is none, names something twice, or is nested more deeply than ``MAX_DEPTH``.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        # Where it ends to be JSON, and never what stands there.
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidArgument(f"The body is not valid JSON in UTF-8: see {where}.") from None
    except (ValueError, RecursionError):
        raise InvalidArgument("The body is not valid JSON in UTF-8.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise InvalidArgument(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidArgument("An object in the body has the same name twice.")
    return value


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inner:
            return False
        level = [item for items in inner for item in items]
    return True
