"""Reading the store while another thread writes it: a read-only connection of its own."""

import re
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.audit import bounded
from services.audit.adapters.sql_filter import COUNTED, SqliteDialect, conditions
from services.audit.bounded import TooSlow, patiently
from services.audit.ports import Count, Filter, Found, Hold, Orphan, Record
from services.audit.retention import SEGMENT, in_force, slice_of
from services.common.errors import InvalidArgument

_STEPS = 100_000
"""Steps of SQLite between two looks at the time."""

_DIALECT = SqliteDialect()

_AHEAD = "SELECT (SELECT min(sequence) FROM events WHERE sequence >= ?), (SELECT max(sequence) FROM events)"

_UNFINISHED = """
SELECT i.sequence, i.writer, i.event_id, i.user, i.action, i.request_id, i.deadline FROM events i NOT INDEXED
WHERE i.sequence >= ? AND i.sequence < ? AND i.phase = 'intent'
AND NOT EXISTS (
  SELECT 1 FROM events o WHERE o.phase = 'outcome' AND o.writer = i.writer AND o.intent_id = i.event_id)
ORDER BY i.sequence
"""

HOLD_EVENTS = "SELECT event FROM events WHERE action IN ('audit.PlaceHold', 'audit.ReleaseHold') ORDER BY sequence"
"""Records of legal holds; the condition is that of their index."""

_RETIRED = "SELECT segment, leaves FROM retired WHERE segment >= ? AND segment <= ? ORDER BY segment"

_OUTCOME = "SELECT event_id FROM events WHERE phase = 'outcome' AND writer = ? AND intent_id = ? LIMIT 1"


class SqliteReads:
    """Blocking reads of committed records; safe for several threads, one at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.Lock()
        self._until = 0.0
        self._connection.set_progress_handler(lambda: time.monotonic() > self._until, _STEPS)

    def find(self, writer: str, event_id: str) -> Record | None:
        """The record with that key."""
        query = "SELECT sequence, event FROM events WHERE writer = ? AND event_id = ?"
        rows = self._all(query, (writer, event_id))
        return Record(*rows[0]) if rows else None

    def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        """The record with that key, and the event_id of its outcome."""
        outcomes = self._all(_OUTCOME, (writer, event_id))
        return self.find(writer, event_id), outcomes[0][0] if outcomes else None

    def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        """At most ``limit`` records with ``first <= sequence < end``."""
        found, parameters = conditions(filter_, _DIALECT)
        where = " AND ".join(["sequence >= ?", "sequence < ?", *found])
        order = "DESC" if descending else "ASC"
        # Column names come from COLUMNS, values are bound.
        query = f"SELECT sequence, event FROM events WHERE {where} ORDER BY sequence {order} LIMIT ?"  # noqa: S608
        return [Record(*row) for row in self._all(query, (first, end, *parameters, limit))]

    def bounds(self) -> str:
        """The number of committed records."""
        return str(self._all("SELECT coalesce(max(sequence), -1) + 1 FROM events", ())[0][0])

    def narrowed(self, bounds: str, filter_: Filter) -> str:
        """``first:end`` of the records of the filter's time, which the index alone tells."""
        times = Filter(since=filter_.since, until=filter_.until)
        if times.is_everything:
            return bounds
        found, parameters = conditions(times, _DIALECT)
        query = f"SELECT min(sequence), max(sequence) FROM events WHERE {' AND '.join(found)}"  # noqa: S608
        first, last = self._all(query, parameters)[0]
        return "0:0" if first is None else f"{first}:{min(last + 1, int(bounds))}"

    def search(self, filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        """One page, or a short one with a cursor where ``SCAN`` records were opened.

        Raises:
            InvalidArgument: a cursor that no search of this order returned.
        """
        begin, _, end_ = bounds.rpartition(":")
        first, end = span(cursor, int(end_), descending=descending, begin=int(begin or 0))
        if filter_.is_indexed and filter_.since is None and filter_.until is None:
            return self._search(filter_, first, end, end - first, limit, descending=descending)
        return patiently(lambda scan: self._search(filter_, first, end, scan, limit, descending=descending))

    def _search(self, filter_: Filter, first: int, end: int, scan: int, limit: int, *, descending: bool) -> Found:
        window = (max(first, end - scan), end) if descending else (first, min(end, first + scan))
        # One record more than wanted tells whether there is a next page.
        records = self.page(filter_, first=window[0], end=window[1], limit=limit + 1, descending=descending)
        if len(records) > limit:
            records = records[:limit]
            at = records[-1].sequence if descending else records[-1].sequence + 1
            return Found(records, cursor_at(at, descending=descending))
        if window != (first, end) and first < end:
            return Found(records, cursor_at(window[0] if descending else window[1], descending=descending))
        return Found(records)

    def count(self, filter_: Filter, by: Sequence[str], bucket_seconds: int, limit: int) -> Sequence[Count]:
        """Counts by columns of ``COUNTED`` and span of time, at most ``limit``."""
        found, parameters = conditions(filter_, _DIALECT)
        groups = [COUNTED[name] for name in by]
        seconds = "CAST(strftime('%s', substr(timestamp, 1, 19)) AS INTEGER) / ? * ?"
        bucket = seconds if bucket_seconds else "NULL"
        bound = (bucket_seconds, bucket_seconds) if bucket_seconds else ()
        query = (
            f"SELECT {bucket} AS bucket, count(*){''.join(', ' + group for group in groups)} "  # noqa: S608
            f"FROM events WHERE {' AND '.join(found) or '1'} GROUP BY {', '.join(['bucket', *groups])} "
            f"ORDER BY {', '.join(['bucket', *groups])} LIMIT ?"
        )
        rows = self._all(query, (*bound, *parameters, limit))
        return [Count(tuple(row[2:]), row[0], row[1]) for row in rows if row[1]]

    def nodes(self, level: int, first: int, end: int) -> Sequence[bytes]:
        """Kept nodes of the tree, for ``Prover``."""
        if level == 0:
            query, parameters = "SELECT leaf FROM events WHERE sequence >= ? AND sequence < ? ORDER BY sequence", ()
            kept = [row[0] for row in self._all(query, (first, end))]
            if len(kept) == end - first:
                return kept
            gone = self._all(_RETIRED, (first // SEGMENT, (end - 1) // SEGMENT))
            return [*slice_of(gone, first, end), *kept]
        query = "SELECT hash FROM nodes WHERE level = ? AND position >= ? AND position < ? ORDER BY position"
        parameters = (level,)  # type: ignore[assignment]
        return [row[0] for row in self._all(query, (*parameters, first, end))]

    def retired(self, first: int, most: int) -> Sequence[bytes]:
        """Leaf hashes of deleted events, at most so many segments from a segment on."""
        return [leaves for _, leaves in self._all(_RETIRED, (first, first + most - 1))]

    def tombstone(self) -> str:
        """The newest tombstone, or nothing."""
        rows = self._all("SELECT note FROM tombstones ORDER BY number DESC LIMIT 1", ())
        return rows[0][0] if rows else ""

    def holds(self) -> Sequence[Hold]:
        """Legal holds in force."""
        return in_force(row[0] for row in self._all(HOLD_EVENTS, ()))

    def unfinished(self, after: Mapping[str, int]) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        """Intents without outcome among the next records, and where to go on (R21)."""
        first, last = self._all(_AHEAD, (after.get("", 0),))[0]
        if first is None:
            return (), after

        def look(scan: int) -> tuple[Sequence[Orphan], Mapping[str, int]]:
            end = min(first + scan, last + 1)
            return [Orphan(*row) for row in self._all(_UNFINISHED, (first, end))], {"": end}

        return patiently(look)

    def without_outcome(self, intents: Sequence[Orphan]) -> Sequence[Orphan]:
        """Those that have no outcome."""
        return [each for each in intents if not self._all(_OUTCOME, (each.writer, each.event_id))]

    def _all(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        with self._lock:
            self._until = time.monotonic() + bounded.PATIENCE
            try:
                return self._connection.execute(query, parameters).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
                raise TooSlow from error

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()


def cursor_at(at: int, *, descending: bool) -> str:
    """The cursor of a search that goes on at a leaf index."""
    return f"{'d' if descending else 'a'}{at}"


def span(cursor: str, size: int, *, descending: bool, begin: int = 0) -> tuple[int, int]:
    """The leaf indices [first, end) that are left of a search over those from ``begin`` to ``size``."""
    if not cursor:
        return begin, size
    order, number = cursor[:1], cursor[1:]
    if order != ("d" if descending else "a") or not re.fullmatch("[0-9]{1,18}", number):
        raise InvalidArgument("The cursor is not of this query; start again without one.")
    return (begin, min(int(number), size)) if descending else (max(int(number), begin), size)
