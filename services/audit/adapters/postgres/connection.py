"""Connections to a database that keeps what it acknowledges, over a channel that nobody reads along."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from services.audit.schema import APPLICATION_ID, COLUMNS, VERSION
from services.common.postgres import UNANSWERED
from services.common.runtime_errors import StartupError

Connection = psycopg.Connection[Any]

_SCHEME = re.compile(r"postgres(ql)?://")


def describe(url: str) -> str:
    """Where the database is, without user and password."""
    parts = conninfo_to_dict(url)
    return f"postgresql://{parts.get('host', '')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def check_url(url: str) -> None:
    """Refuses a URL that would send events in the clear.

    Raises:
        StartupError: it is malformed, or names a host without ``sslmode=verify-full``.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise StartupError("the database URL is malformed; write postgresql://user:password@host/name") from error
    host = str(parts.get("host", ""))
    if not _SCHEME.match(url) or not host:
        raise StartupError("the database URL must name its host, or the directory of its socket: postgresql://...")
    if not host.startswith("/") and parts.get("sslmode") != "verify-full":
        raise StartupError(
            f"{describe(url)}: the database is asked over the network without a verified certificate; add "
            "?sslmode=verify-full&sslrootcert=/path/ca.crt to its URL, or use its socket"
        )


def connect(url: str, *, read_only: bool = False) -> Connection:
    """A connection whose commits are durable.

    Raises:
        psycopg.Error: it cannot be had.
        StartupError: the database may lose what it acknowledged (R23).
    """
    # What the URL says about waiting holds.
    said = conninfo_to_dict(url)
    ours = {name: value for name, value in UNANSWERED.items() if name not in said}
    connection = psycopg.connect(make_conninfo(url, application_name="kubegate-audit", **ours), autocommit=True)
    try:
        for setting in ("synchronous_commit", "fsync", "full_page_writes"):
            row = connection.execute(sql.SQL("SHOW {}").format(sql.SQL(setting))).fetchone()
            if row is None or row[0] == "off":
                raise StartupError(
                    f"{describe(url)}: {setting} is off: the database may lose events that it acknowledged; "
                    "switch it on for this database and user"
                )
        if read_only:
            connection.execute("SET default_transaction_read_only = on")
    except BaseException:
        connection.close()
        raise
    return connection


class LogView:
    """One log of the database with the tables of the SQLite store, for what reads both engines alike: the check at
    start and the offline verification. Nothing is written through it.
    """

    def __init__(self, connection: Connection, log_id: str) -> None:
        self._connection = connection
        columns = ", ".join(f'"{name}"' for name in COLUMNS)
        for name, what in (
            ("log", "1 AS id, origin, epoch FROM audit_logs"),
            ("keys", "number, vkey, first, handover FROM audit_keys"),
            ("events", f"sequence, event, leaf, {columns} FROM audit_events"),
            ("checkpoints", "number, size, root, note FROM audit_checkpoints"),
            ("retired", "segment, leaves FROM audit_retired"),
            ("tombstones", "number, size, note FROM audit_tombstones"),
            ("nodes", "level, position, hash FROM audit_nodes"),
        ):
            statement = "CREATE OR REPLACE TEMP VIEW {} AS SELECT " + what + " WHERE log_id = {}"
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(log_id)))

    def execute(self, query: str, parameters: Sequence[Any] = ()) -> "Rows":
        """The rows of a query of the SQLite store. What only SQLite has is answered as it would."""
        if query.startswith("PRAGMA"):
            answers: dict[str, Any] = {"application_id": APPLICATION_ID, "user_version": VERSION}
            return Rows([(answers.get(query.split()[1], "ok"),)])
        cursor = self._connection.cursor()
        cursor.execute(query.replace("?", "%s").encode(), parameters)
        return Rows(cursor if cursor.description else ())


class Rows:
    """Rows as a sqlite3 cursor has them."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        """The next row, or nothing."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """All that are left."""
        return list(self._rows)
