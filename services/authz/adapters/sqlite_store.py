"""authz's store: elevations, and the revision of everything that can alter a decision, in one SQLite file; also what
`sqlite_once` and `sqlite_policies` keep there.

WAL and ``synchronous=FULL``: what a call has returned survives a crash. Every change is one transaction that
also adds a revision, so revisions are in the order of commits (R12), and who comes second finds nothing to do.
"""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from services.authz.adapters import sqlite_policies
from services.authz.policy.model import Elevation
from services.authz.policy.scope import EVERYWHERE, Scope
from services.authz.ports import Adopted, Record, State
from services.common.errors import Unavailable
from services.common.log import get_logger
from services.common.runtime_errors import StartupError

APPLICATION_ID = 0x6B67617A  # "kgaz"
VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS revisions (
  revision INTEGER PRIMARY KEY AUTOINCREMENT,
  cause TEXT NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS elevations (
  id TEXT PRIMARY KEY,
  state TEXT NOT NULL CHECK (state IN ('requested', 'active', 'revoked')),
  issuer TEXT NOT NULL,
  subject TEXT NOT NULL,
  tenant TEXT NOT NULL,
  role TEXT NOT NULL,
  namespaces TEXT NOT NULL,
  duration REAL NOT NULL,
  justification TEXT NOT NULL,
  requested_at REAL NOT NULL,
  expires REAL NOT NULL,
  approved_by TEXT NOT NULL DEFAULT '',
  revoked_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS elevations_open ON elevations (state, expires);
CREATE INDEX IF NOT EXISTS elevations_person ON elevations (issuer, subject, state);
CREATE TABLE IF NOT EXISTS used_confirmations (
  id TEXT PRIMARY KEY,
  forget REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS used_confirmations_forget ON used_confirmations (forget);
CREATE TABLE IF NOT EXISTS claims (
  issuer TEXT NOT NULL,
  subject TEXT NOT NULL,
  key TEXT NOT NULL,
  forget REAL NOT NULL,
  id TEXT NOT NULL UNIQUE,
  digest BLOB NOT NULL,
  request_id TEXT NOT NULL,
  claimed_at REAL NOT NULL,
  deadline REAL NOT NULL,
  outcome TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (issuer, subject, key)
) STRICT;
CREATE INDEX IF NOT EXISTS claims_forget ON claims (forget);
"""
_COLUMNS = (
    "id, state, issuer, subject, tenant, role, namespaces, duration, justification, requested_at, expires, "
    "approved_by, revoked_by"
)

T = TypeVar("T")

log = get_logger("store")


class SqliteStore:
    """One connection, used by one thread at a time; opened on construction."""

    def __init__(self, path: Path) -> None:
        """Raises:
        StartupError: the file cannot be opened, or is damaged, foreign or of another version.
        """
        self._lock = asyncio.Lock()
        self._connection = _open(path)

    async def revision(self) -> int:
        """The newest revision, by a read begun now."""
        return await self.run(_revision)

    async def touch(self) -> None:
        """Commits a write that changes nothing. Raises Unavailable where it cannot be written."""
        await self.run(lambda connection: connection.execute("UPDATE revisions SET at = at WHERE revision = 1"))

    async def adopted(self, policy: Adopted, content: bytes) -> int:
        """Notes that a policy is in force, and keeps it among the newest; returns the new revision."""

        def work(connection: sqlite3.Connection) -> int:
            _bump(connection, f"policy {policy.revision}")
            number = _revision(connection)
            sqlite_policies.keep(connection, number, policy, content)
            return number

        return await self.run(work)

    async def policies(self) -> list[Adopted]:
        """The policies that are kept, newest first; the first is in force."""
        return await self.run(sqlite_policies.every)

    async def policy(self, number: int) -> bytes | None:
        """The bytes of a policy that is kept."""
        return await self.run(lambda connection: sqlite_policies.content_of(connection, number))

    async def active(self, now: float) -> tuple[int, list[Elevation]]:
        """The elevations in force and the revision of which that is true."""

        def work(connection: sqlite3.Connection) -> tuple[int, list[Elevation]]:
            rows = connection.execute(
                "SELECT id, issuer, subject, role, namespaces, expires, tenant FROM elevations "
                "WHERE state = 'active' AND expires > ?",
                (now,),
            ).fetchall()
            found = [
                Elevation(row[0], row[1], row[2], row[3], _scope(row[4]), expires=row[5], tenant=row[6]) for row in rows
            ]
            return _revision(connection), found

        return await self.run(work)

    async def add(self, record: Record, *, at_most: int) -> bool:
        """Stores a request, unless its person has ``at_most`` open ones at ``requested_at``."""

        def work(connection: sqlite3.Connection) -> bool:
            (open_,) = connection.execute(
                "SELECT count(*) FROM elevations WHERE issuer = ? AND subject = ? AND state != 'revoked' "
                "AND expires > ?",
                (record.issuer, record.subject, record.requested_at),
            ).fetchone()
            if open_ >= at_most:
                return False
            connection.execute(
                f"INSERT INTO elevations ({_COLUMNS}) VALUES (?{', ?' * 12})",  # noqa: S608 - no values in it
                (
                    record.id,
                    record.state.value,
                    record.issuer,
                    record.subject,
                    record.tenant,
                    record.role,
                    _text(record.scope),
                    record.duration,
                    record.justification,
                    record.requested_at,
                    record.expires,
                    record.approved_by,
                    record.revoked_by,
                ),
            )
            return True

        return await self.run(work)

    async def find(self, elevation_id: str) -> Record | None:
        """One elevation."""

        def work(connection: sqlite3.Connection) -> Record | None:
            sql = f"SELECT {_COLUMNS} FROM elevations WHERE id = ?"  # noqa: S608 - no values in it
            row = connection.execute(sql, (elevation_id,)).fetchone()
            return _record(row) if row is not None else None

        return await self.run(work)

    async def approve(self, elevation_id: str, by: str, now: float, expires: float) -> bool:
        """Activates a request that may still be approved; False where it is no such thing any more."""

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE elevations SET state = 'active', approved_by = ?, expires = ? "
                "WHERE id = ? AND state = 'requested' AND expires > ?",
                (by, expires, elevation_id, now),
            ).rowcount
            return _changed(connection, changed, f"elevation {elevation_id} approved")

        return await self.run(work)

    async def revoke(self, elevation_id: str, by: str, now: float) -> bool:
        """Ends what is requested or active; False where it has ended."""

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE elevations SET state = 'revoked', revoked_by = ? "
                "WHERE id = ? AND state != 'revoked' AND expires > ?",
                (by, elevation_id, now),
            ).rowcount
            return _changed(connection, changed, f"elevation {elevation_id} revoked")

        return await self.run(work)

    async def records(self, tenant: str | None, limit: int, *, open_at: float | None = None) -> list[Record]:
        """Elevations, newest first; of one tenant, or of all for None; those only that are open at a time, if given."""
        where = "(?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR (state <> ?3 AND expires > ?2))"

        def work(connection: sqlite3.Connection) -> list[Record]:
            sql = f"SELECT {_COLUMNS} FROM elevations WHERE {where} ORDER BY id DESC LIMIT ?4"  # noqa: S608
            values = (tenant, open_at, State.REVOKED.value, limit)
            return [_record(row) for row in connection.execute(sql, values).fetchall()]

        return await self.run(work)

    async def close(self) -> None:
        """Closes the file."""
        async with self._lock:
            self._connection.close()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does some work as one transaction, durable when this returns.

        Raises:
            Unavailable: the store failed; nothing was changed.
        """

        def transaction() -> T:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result

        async with self._lock:
            task = asyncio.ensure_future(asyncio.to_thread(transaction))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                # The connection is the thread's until it is done.
                await asyncio.wait([task])
                raise
            except sqlite3.Error as error:
                log.error("store failed", exc_info=error)
                raise Unavailable("The authorization store failed. Nothing was changed; try again shortly.") from error


def _revision(connection: sqlite3.Connection) -> int:
    (revision,) = connection.execute("SELECT coalesce(max(revision), 0) FROM revisions").fetchone()
    return int(revision)


def _bump(connection: sqlite3.Connection, cause: str) -> None:
    connection.execute("INSERT INTO revisions (cause, at) VALUES (?, ?)", (cause, time.time()))


def _changed(connection: sqlite3.Connection, rows: int, cause: str) -> bool:
    if rows:
        _bump(connection, cause)
    return bool(rows)


def _text(scope: Scope) -> str:
    return json.dumps(None if scope.everything else scope.patterns())


def _scope(text: str) -> Scope:
    patterns = json.loads(text)
    return EVERYWHERE if patterns is None else Scope.of(patterns)


def _record(row: Any) -> Record:
    id_, state, issuer, subject, tenant, role, namespaces, *rest = row
    return Record(id_, State(state), issuer, subject, tenant, role, _scope(namespaces), *rest)


def _open(path: Path) -> sqlite3.Connection:
    try:
        # Made by us, so that it is private from its first byte; SQLite's side files take its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    except OSError as error:
        raise StartupError(f"{path}: the authorization store cannot be opened ({error.strerror})") from error
    except sqlite3.Error as error:
        raise _damaged(path) from error
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application not in (0, APPLICATION_ID) or (tables and application == 0):
            raise StartupError(f"{path}: this is a database of another application; name another file as `store`")
        if tables and version != VERSION:
            raise StartupError(
                f"{path}: the authorization store has schema version {version}, this kubegate reads version {VERSION}; "
                "run the version of kubegate that wrote it"
            )
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _damaged(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # The marks first, so that a creation that was interrupted is recognized as ours.
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.executescript(_SCHEMA + sqlite_policies.SCHEMA)
    except sqlite3.Error as error:
        connection.close()
        raise _damaged(path) from error
    except StartupError:
        connection.close()
        raise
    return connection


def _damaged(path: Path) -> StartupError:
    return StartupError(
        f"{path}: the authorization store is damaged or not a SQLite database; restore it from a backup, or move it "
        "away to start with an empty one (every elevation in it is lost then)"
    )
