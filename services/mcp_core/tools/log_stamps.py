"""The times that the cluster writes before the lines of a log: where one reading of it ended, and the next goes on."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")

LONGEST = 40
"""Characters of a time and the space after it, at most."""

Moment = tuple[datetime, str]
"""A second, and the nine digits after it."""


def unstamped(text: str) -> tuple[str, str]:
    """The whole lines of a text without the times before them, and the time of the last; "" without any. A last line
    that has no end yet is left to the next reading."""
    *whole, _ = map(_split, text.split("\n"))
    last = next((stamp for stamp, _ in reversed(whole) if stamp), "")
    return "\n".join(rest for _, rest in whole), last


def since(stamp: str) -> str:
    """The second of a time, for `sinceTime`: the cluster knows no smaller part there."""
    return _moment(stamp)[0].strftime("%Y-%m-%dT%H:%M:%SZ")


def _split(line: str) -> tuple[str, str]:
    """A line's time, "" without one, and what comes after it."""
    stamp, _, rest = line.partition(" ")
    return (stamp, rest) if _STAMP.fullmatch(stamp) else ("", line)


def _moment(stamp: str) -> Moment:
    """A time so that it can be compared: the cluster leaves out zeros at its end, and may name a zone."""
    match = _STAMP.fullmatch(stamp)
    assert match is not None  # noqa: S101 - it comes from `_split`
    zone = match[3].replace("Z", "+00:00")
    return datetime.fromisoformat(match[1] + zone).astimezone(UTC), (match[2] or "").ljust(9, "0")


class Unstamped:
    """Takes pieces of a log with times, gives them without. last: of what was read before; what is not later is left
    out, up to the first line that is."""

    def __init__(self, last: str = "") -> None:
        self._last = _moment(last) if last else None
        self._begun = b""  # Of a line, as long as its time is not known.
        self._known = self._skips = False  # Whether it is known, of the line that comes, and whether that is left out.

    def feed(self, piece: bytes) -> bytes:
        """What of the piece is new."""
        *whole, begun = piece.split(b"\n")
        fresh: list[bytes] = []
        for part in whole:
            fresh.append(self._part(part, over=True))
            if not self._skips:
                fresh.append(b"\n")
            self._known = False
        return b"".join([*fresh, self._part(begun, over=False)])

    def end(self) -> bytes:
        """What of the last line has waited for a time that does not come."""
        return self._part(b"", over=True)

    def _part(self, part: bytes, *, over: bool) -> bytes:
        if not self._known:
            self._begun += part
            if not over and b" " not in self._begun and len(self._begun) < LONGEST:
                return b""
            part, self._begun, self._known = self._begun, b"", True
            stamp, _ = _split(part[:LONGEST].decode("ascii", "replace"))
            if stamp:
                part = part[len(stamp) + 1 :]
                self._skips = self._last is not None and _moment(stamp) <= self._last
                if not self._skips:
                    self._last = None
        return b"" if self._skips else part
