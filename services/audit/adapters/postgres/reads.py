"""Reading all logs of the database as one, merged by time, while their owners write them.

An event that a writer sent to two replicas, not knowing that the first had it, is found once: in the log whose id
comes first (R23). Two events under one id are two events: none can be hidden behind another.
"""

import base64
import binascii
import json
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg

from services.audit import bounded
from services.audit.adapters.postgres.connection import Connection, connect
from services.audit.adapters.sql_filter import COUNTED, Condition, conditions
from services.audit.bounded import TooSlow, patiently
from services.audit.ports import Count, Filter, Found, Hold, Orphan, Record
from services.audit.retention import SEGMENT, in_force, slice_of
from services.common.errors import InvalidArgument, Unavailable
from services.common.runtime_errors import StartupError

_Key = tuple[str, str, int]
"""(timestamp, log_id, sequence): the order of a search, and of its index."""

_ORDER = {
    descending: f"ORDER BY timestamp {order}, log_id {order}, sequence {order}"
    for descending, order in ((False, "ASC"), (True, "DESC"))
}

_ONCE = """
NOT EXISTS (SELECT 1 FROM audit_event_keys k JOIN audit_events o ON o.log_id = k.log_id AND o.sequence = k.sequence
  WHERE k.writer = e.writer AND k.event_id = e.event_id AND k.log_id < e.log_id
  AND convert_from(o.event, 'UTF8')::jsonb - 'sequence' = convert_from(e.event, 'UTF8')::jsonb - 'sequence')
"""

_BOUNDS = """
SELECT log_id, (SELECT size FROM audit_checkpoints c WHERE c.log_id = l.log_id ORDER BY number DESC LIMIT 1)
FROM audit_logs l
"""

_AHEAD = "SELECT sequence FROM audit_events WHERE log_id = %s AND sequence >= %s ORDER BY sequence LIMIT 1"

_UNFINISHED = """
SELECT i.sequence, i.writer, i.event_id, i."user", i.action, i.request_id, i.deadline FROM audit_events i
WHERE i.log_id = %s AND i.sequence >= %s AND i.sequence < %s AND i.phase = 'intent'
AND NOT EXISTS (SELECT 1 FROM audit_events o
  WHERE o.phase = 'outcome' AND o.writer = i.writer AND o.intent_id = i.event_id)
ORDER BY i.sequence
"""

_WITHOUT_OUTCOME = """
SELECT i.writer, i.event_id FROM unnest(%s::text[], %s::text[]) AS i (writer, event_id)
WHERE NOT EXISTS (SELECT 1 FROM audit_events o
  WHERE o.phase = 'outcome' AND o.writer = i.writer AND o.intent_id = i.event_id)
"""

HOLD_EVENTS = (
    b"SELECT event FROM audit_events WHERE action IN ('audit.PlaceHold', 'audit.ReleaseHold') "
    b"ORDER BY timestamp, log_id, sequence"
)
"""Records of legal holds in all logs; the condition is that of their index."""

_RETIRED = (
    "SELECT segment, leaves FROM audit_retired WHERE log_id = %s AND segment >= %s AND segment <= %s ORDER BY segment"
)

_OUTCOME = "SELECT event_id FROM audit_events WHERE phase = 'outcome' AND writer = %s AND intent_id = %s LIMIT 1"


class PostgresDialect:
    """The record as ``jsonb``."""

    mark = "%s"
    prefixed: Collection[str] = ("user", "request_id")
    _event = "convert_from(event, 'UTF8')::jsonb"

    def field(self, keys: Sequence[str], values: Sequence[str]) -> Condition:
        value = f"{self._event} #> %s"
        # Walks a list's values, or the one value.
        sql = (
            f"EXISTS (SELECT 1 FROM jsonb_array_elements(CASE jsonb_typeof({value}) WHEN 'array' THEN {value} "  # noqa: S608
            f"ELSE jsonb_build_array({value}) END) f WHERE f #>> '{{}}' = ANY(%s))"
        )
        path, choices = list(keys), list(values)
        if "" in values:
            return f"({sql} OR {value} IS NULL)", (path, path, path, choices, path)
        return sql, (path, path, path, choices)

    def number(self, key: str, operator: str, bound: float) -> Condition:
        return f"({self._event} ->> %s)::float8 {operator} %s", (key, bound)

    def text(self, part: str) -> Condition:
        holds = 'position(lower(%s COLLATE "C") IN lower({} COLLATE "C")) > 0'
        sql = (
            f"({holds.format(f'''({self._event} ->> 'error_message')''')} OR EXISTS (SELECT 1 FROM "  # noqa: S608
            f"jsonb_each_text({self._event} -> 'metadata') m "
            f"WHERE {holds.format('m.value')} OR {holds.format('m.key')}))"
        )
        return sql, (part, part, part)


_DIALECT = PostgresDialect()


class PostgresReads:
    """Blocking reads; safe for several threads, one at a time. ``Unavailable`` while the database is away, and
    connects anew when asked again."""

    def __init__(self, url: str, log_id: str) -> None:
        self._url, self._log_id = url, log_id
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def find(self, writer: str, event_id: str) -> Record | None:
        """The record with that key, of this log rather than of another."""
        rows = self._all(
            "SELECT e.sequence, e.event, e.log_id FROM audit_event_keys k "
            "JOIN audit_events e ON e.log_id = k.log_id AND e.sequence = k.sequence "
            "WHERE k.writer = %s AND k.event_id = %s ORDER BY k.log_id <> %s, k.log_id LIMIT 1",
            (writer, event_id, self._log_id),
        )
        return self._record(rows[0]) if rows else None

    def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        """The record with that key, and the event_id of its outcome, in whichever log each of them lies."""
        outcomes = self._all(_OUTCOME, (writer, event_id))
        return self.find(writer, event_id), outcomes[0][0] if outcomes else None

    def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        """At most ``limit`` records of this log with ``first <= sequence < end``."""
        found, parameters = conditions(filter_, _DIALECT)
        where = " AND ".join(["log_id = %s", "sequence >= %s", "sequence < %s", *found])
        order = "DESC" if descending else "ASC"
        query = f"SELECT sequence, event, log_id FROM audit_events WHERE {where} ORDER BY sequence {order} LIMIT %s"  # noqa: S608
        rows = self._all(query, (self._log_id, first, end, *parameters, limit))
        return [self._record(row) for row in rows]

    def events(self, first: int, limit: int) -> Sequence[bytes]:
        """Canonical JSON of records of this log from a leaf index on."""
        query = "SELECT event FROM audit_events WHERE log_id = %s AND sequence >= %s ORDER BY sequence LIMIT %s"
        return [row[0] for row in self._all(query, (self._log_id, first, limit))]

    def bounds(self) -> str:
        """The sizes of all logs."""
        return json.dumps(dict(self._all(_BOUNDS, ())))

    def narrowed(self, bounds: str, filter_: Filter) -> str:
        """All of them: what is out of the filter's time is never opened here, where order is that of time."""
        return bounds

    def search(self, filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        """One page over all logs, by time, or a short one with a cursor where ``SCAN`` records were opened.

        Raises:
            InvalidArgument: a cursor that no search of this order returned.
        """
        position = _position(cursor, descending=descending) if cursor else None
        if filter_.is_indexed:
            return self._search(filter_, position, None, bounds, limit, descending=descending)
        times = Filter(since=filter_.since, until=filter_.until)

        def search(scan: int) -> Found:
            last = self._nth(times, position, scan, descending=descending)
            return self._search(filter_, position, last, bounds, limit, descending=descending)

        return patiently(search)

    def _nth(self, times: Filter, position: _Key | None, count: int, *, descending: bool) -> _Key | None:
        """The key of the ``count``th record from a position on, in the order of the index, or nothing."""
        where, parameters = _between(times, position, None, descending=descending)
        query = f"SELECT timestamp, log_id, sequence FROM audit_events {where} {_ORDER[descending]} OFFSET %s LIMIT 1"  # noqa: S608
        rows = self._all(query, (*parameters, count - 1))
        return tuple(rows[0]) if rows else None

    def _search(
        self, filter_: Filter, position: _Key | None, last: _Key | None, bounds: str, limit: int, *, descending: bool
    ) -> Found:
        where, parameters = _between(filter_, position, last, descending=descending)
        query = (
            f"SELECT sequence, event, log_id, timestamp FROM audit_events e {where} AND "  # noqa: S608
            f"sequence < coalesce((%s::jsonb ->> log_id)::bigint, 0) AND {_ONCE} {_ORDER[descending]} LIMIT %s"
        )
        rows = self._all(query, (*parameters, bounds, limit + 1))
        records = [self._record(row[:3]) for row in rows[:limit]]
        if len(rows) > limit:
            sequence, _, log_id, timestamp = rows[limit - 1]
            return Found(records, _cursor(descending, (timestamp, log_id, sequence)))
        return Found(records, _cursor(descending, last) if last is not None else "")

    def count(self, filter_: Filter, by: Sequence[str], bucket_seconds: int, limit: int) -> Sequence[Count]:
        """Counts over all logs by columns of ``COUNTED`` and span of time, at most ``limit``."""
        found, parameters = conditions(filter_, _DIALECT)
        groups = [COUNTED[name] for name in by]
        seconds = "floor(extract(epoch FROM timestamp::timestamptz) / %s)::bigint * %s"
        bucket = seconds if bucket_seconds else "NULL::bigint"
        bound = (bucket_seconds, bucket_seconds) if bucket_seconds else ()
        query = (
            f"SELECT {bucket} AS bucket, count(*){''.join(', ' + group for group in groups)} "  # noqa: S608
            f"FROM audit_events e WHERE {' AND '.join([*found, _ONCE])} GROUP BY {', '.join(['bucket', *groups])} "
            f"ORDER BY {', '.join(['bucket', *groups])} LIMIT %s"
        )
        return [Count(tuple(row[2:]), row[0], row[1]) for row in self._all(query, (*bound, *parameters, limit))]

    def nodes(self, level: int, first: int, end: int) -> Sequence[bytes]:
        """Kept nodes of this log's tree, for ``Prover``."""
        if level == 0:
            query = (
                "SELECT leaf FROM audit_events WHERE log_id = %s AND sequence >= %s AND sequence < %s ORDER BY sequence"
            )
            kept = [row[0] for row in self._all(query, (self._log_id, first, end))]
            if len(kept) == end - first:
                return kept
            gone = self._all(_RETIRED, (self._log_id, first // SEGMENT, (end - 1) // SEGMENT))
            return [*slice_of(gone, first, end), *kept]
        query = (
            "SELECT hash FROM audit_nodes WHERE log_id = %s AND level = %s AND position >= %s AND position < %s "
            "ORDER BY position"
        )
        return [row[0] for row in self._all(query, (self._log_id, level, first, end))]

    def retired(self, first: int, most: int) -> Sequence[bytes]:
        """Leaf hashes of deleted events of this log, at most so many segments from a segment on."""
        return [leaves for _, leaves in self._all(_RETIRED, (self._log_id, first, first + most - 1))]

    def tombstone(self) -> str:
        """The newest tombstone of this log, or nothing."""
        query = "SELECT note FROM audit_tombstones WHERE log_id = %s ORDER BY number DESC LIMIT 1"
        rows = self._all(query, (self._log_id,))
        return rows[0][0] if rows else ""

    def holds(self) -> Sequence[Hold]:
        """Legal holds in force, of all logs."""
        return in_force(row[0] for row in self._all(HOLD_EVENTS.decode(), ()))

    def unfinished(self, after: Mapping[str, int]) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        """Intents among the next records of one log that have no outcome in any, and where to go on (R21)."""
        for log_id, size in self._all(_BOUNDS, ()):
            ahead = self._all(_AHEAD, (log_id, after.get(log_id, 0)))
            if ahead and ahead[0][0] < (size or 0):
                return self._unfinished(log_id, ahead[0][0], size, after)
        return (), after

    def _unfinished(
        self, log_id: str, first: int, size: int, after: Mapping[str, int]
    ) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        def look(scan: int) -> tuple[Sequence[Orphan], Mapping[str, int]]:
            end = min(first + scan, size)
            rows = self._all(_UNFINISHED, (log_id, first, end))
            return [Orphan(*row) for row in rows], {**after, log_id: end}

        return patiently(look)

    def without_outcome(self, intents: Sequence[Orphan]) -> Sequence[Orphan]:
        """Those that have no outcome in any log."""
        keys = [each.writer for each in intents], [each.event_id for each in intents]
        left = set(self._all(_WITHOUT_OUTCOME, keys))
        return [each for each in intents if (each.writer, each.event_id) in left]

    def _record(self, row: Sequence[Any]) -> Record:
        sequence, event, log_id = row
        return Record(sequence, event, "" if log_id == self._log_id else log_id)

    def _all(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._url, read_only=True)
                    self._connection.execute(f"SET statement_timeout = '{bounded.PATIENCE}s'".encode())
                return self._connection.execute(query.encode(), parameters).fetchall()
            except psycopg.errors.QueryCanceled as error:
                raise TooSlow from error
            except psycopg.DataError as error:
                raise InvalidArgument("The cursor or filter holds a value that no event can have.") from error
            except (psycopg.OperationalError, StartupError) as error:
                if self._connection is not None:
                    self._connection.close()
                raise Unavailable("The audit database did not answer; try again shortly.") from error

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()


def _between(filter_: Filter, after: _Key | None, last: _Key | None, *, descending: bool) -> tuple[str, list[Any]]:
    """WHERE of what a filter finds after a key and up to another one. Each bound names the time once more by itself:
    that tells the planner which partitions it is about."""
    found, parameters = conditions(filter_, _DIALECT)
    for key, operator in ((after, "<" if descending else ">"), (last, ">=" if descending else "<=")):
        if key is not None:
            found += [f"timestamp {operator[0]}= %s", f"(timestamp, log_id, sequence) {operator} (%s, %s, %s)"]
            parameters += [key[0], *key]
    return f"WHERE {' AND '.join(found) or 'true'}", parameters


def _cursor(descending: bool, position: _Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([descending, *position]).encode()).decode()


def _position(cursor: str, *, descending: bool) -> _Key:
    """Where the page before ended."""
    try:
        order, timestamp, log_id, sequence = json.loads(base64.urlsafe_b64decode(cursor))
        fits = [type(each) for each in (order, timestamp, log_id, sequence)] == [bool, str, str, int]
    except (ValueError, TypeError, binascii.Error):
        fits = False
    if not fits or order is not descending or not 0 <= sequence < 1 << 63:
        raise InvalidArgument("The cursor is not of this query; start again without one.")
    return timestamp, log_id, sequence
