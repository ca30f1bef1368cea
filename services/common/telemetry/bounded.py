"""Label values from closed or bounded sets: whoever makes names up does not fill the memory of every Prometheus."""

import re
from collections.abc import Iterable

OTHER = "other"
"""What a value beyond the bound is counted as."""

UNKNOWN = "unknown"
"""What nobody proven is counted as."""

_ODD = re.compile(r"[^\x21-\x7e]")


class Bounded:
    """The first ``limit`` values keep their names, the rest are ``other``. Nothing is forgotten: a counter that moved
    from one name to another would lie."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if not value:
            return UNKNOWN
        if len(self._seen) >= self._limit or len(value) > 128 or _ODD.search(value):
            return OTHER
        self._seen.add(value)
        return value


class Closed:
    """Values of a fixed set; everything else is ``other``."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = frozenset(values)

    def __call__(self, value: str) -> str:
        return value if value in self._values else OTHER
