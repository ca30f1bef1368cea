"""Reading the store while another thread writes it: a read-only connection of its own."""

import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from services.audit.event import rfc3339
from services.audit.ports import Filter, Orphan, Record
from services.audit.schema import COLUMNS

_ORPHANS = """
SELECT i.sequence, i.event_id, i.user, i.action, i.request_id, i.deadline FROM events i
WHERE i.phase = 'intent' AND i.deadline < ?
AND NOT EXISTS (
  SELECT 1 FROM events o WHERE o.phase = 'outcome' AND o.writer = i.writer AND o.intent_id = i.event_id)
ORDER BY i.sequence
"""

_OUTCOME = "SELECT event_id FROM events WHERE phase = 'outcome' AND writer = ? AND intent_id = ? LIMIT 1"


class SqliteReads:
    """Blocking reads of committed records; safe for several threads, one at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.Lock()

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
        unknown = set(filter_.equal) - set(COLUMNS)
        if unknown:
            raise LookupError(f"no such column: {', '.join(sorted(unknown))}")
        conditions = ["sequence >= ?", "sequence < ?"]
        parameters: list[Any] = [first, end]
        for column, value in filter_.equal.items():
            conditions.append(f'"{column}" = ?')
            parameters.append(value)
        for bound, operator in ((filter_.since, ">="), (filter_.until, "<")):
            if bound is not None:
                conditions.append(f"timestamp {operator} ?")
                parameters.append(rfc3339(bound))
        order = "DESC" if descending else "ASC"
        # Column names come from COLUMNS, values are bound.
        where = " AND ".join(conditions)
        query = f"SELECT sequence, event FROM events WHERE {where} ORDER BY sequence {order} LIMIT ?"  # noqa: S608
        return [Record(*row) for row in self._all(query, (*parameters, limit))]

    def orphans(self, before: datetime) -> Sequence[Orphan]:
        """Intents whose deadline lay before a time and that have no outcome (R21)."""
        return [Orphan(*row) for row in self._all(_ORPHANS, (rfc3339(before),))]

    def _all(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, parameters).fetchall()

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()
