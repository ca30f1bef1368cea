"""A log in PostgreSQL, by the same walk as a SQLite store."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from services.audit.adapters.postgres import layout
from services.audit.adapters.postgres.connection import LogView, check_url, connect, describe
from services.audit.checkpoint import NoteVerifier
from services.audit.verify.findings import Altered, Report, Unreadable
from services.audit.verify.store import check_tables
from services.common.runtime_errors import StartupError


def verify_database(
    url: str, log_id: str, verifier: NoteVerifier, mirror: Path | None = None, heads: Any = MappingProxyType({})
) -> Report:
    """Checks one log of a database as ``verify_store`` does a file, in one snapshot.

    Raises:
        Altered, Unreadable: as ``verify_store``.
    """
    try:
        check_url(url)
        with connect(url) as connection:
            view = LogView(connection, log_id)
            # Whatever replicas commit meanwhile, this walk sees one moment.
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            report = check_tables(view, verifier, mirror, heads, running=True)
            row = connection.execute(_KEYS, (log_id, log_id)).fetchone()
            if (what := layout.foreign(connection)) is not None:
                raise Altered(f"the events are intact, but the database is not: {what}")
            if row is not None:
                raise Altered(f"the key of event {row[0]} is missing, altered or one too many", row[0])
            return report
    except (psycopg.Error, StartupError) as error:
        reason = str(error) if isinstance(error, StartupError) else type(error).__name__
        raise Unreadable(f"{describe(url)}: the log cannot be read: {reason}") from error


_KEYS = """
SELECT coalesce(e.sequence, k.sequence)
FROM (SELECT writer, event_id, sequence FROM audit_events WHERE log_id = %s) e
FULL JOIN (SELECT writer, event_id, sequence FROM audit_event_keys WHERE log_id = %s) k
USING (writer, event_id, sequence) WHERE e.sequence IS NULL OR k.sequence IS NULL ORDER BY 1 LIMIT 1
"""
