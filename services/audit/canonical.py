"""Canonical JSON: one byte string for one event, because a leaf hashes bytes, not meanings (R23).

Keys sorted, no white space, UTF-8, no escapes beyond those that JSON demands. For what an event can hold
(ASCII keys, strings, booleans, integers, floats of at most three decimals) this is RFC 8785.
"""

import json
from collections.abc import Mapping
from typing import Any


class NotCanonical(ValueError):
    """The bytes are not JSON, or not in canonical form."""


def encode(value: Mapping[str, Any]) -> bytes:
    """The canonical bytes, without a newline.

    Raises:
        ValueError: the value holds NaN, an infinity or a lone surrogate.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def decode(data: bytes) -> dict[str, Any]:
    """The object that canonical bytes stand for.

    Raises:
        NotCanonical: they are anything else, duplicate keys and other spellings of the same object included.
    """
    try:
        value = json.loads(data.decode("utf-8"))
        if isinstance(value, dict) and encode(value) == data:
            return value
    except (ValueError, RecursionError) as error:
        raise NotCanonical("not valid JSON") from error
    raise NotCanonical("not canonical JSON")
