"""One log in PostgreSQL, written by one thread: the twin of ``sqlite_store``, under the same contract suite."""

import re
from collections.abc import Iterator, Mapping, Sequence

import psycopg
from psycopg import sql
from psycopg.errors import UniqueViolation

from services.audit.adapters.batch import Batch, Committed, Key, StoreBroken, build
from services.audit.adapters.opening import check_log, damaged
from services.audit.adapters.postgres import layout
from services.audit.adapters.postgres.connection import LogView, check_url, connect, describe
from services.audit.adapters.postgres.migrations import migrate
from services.audit.adapters.postgres.reads import HOLD_EVENTS, PostgresReads
from services.audit.checkpoint import NoteSigner
from services.audit.event import Phase
from services.audit.keyring import ALL_KEYS, KeyRow, ring
from services.audit.merkle import Tree
from services.audit.ports import Draft
from services.audit.proofs import Prover
from services.audit.retention import (
    SEGMENT,
    Tombstone,
    deletable,
    in_force,
    limit,
    read_retired,
    signed_anew,
    split,
)
from services.audit.schema import COLUMNS
from services.common.errors import AlreadyExists
from services.common.runtime_errors import StartupError

_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_EVENTS = f"COPY audit_events (log_id, sequence, event, leaf, {_NAMES}) FROM STDIN"
_WRITER, _EVENT_ID, _TIMESTAMP = (3 + COLUMNS.index(name) for name in ("writer", "event_id", "timestamp"))
_MONTH = re.compile(r"(20[2-9]\d)-(0[1-9]|1[0-2])")
_PHASE, _INTENT_ID = (3 + COLUMNS.index(name) for name in ("phase", "intent_id"))

# In the order of the locks, lest two replicas wait for each other.
_LOCK_INTENTS = """
SELECT pg_advisory_xact_lock(number) FROM (
  SELECT DISTINCT hashtextextended(writer || ' ' || intent_id, 1) AS number
  FROM unnest(%s::text[], %s::text[]) AS d (writer, intent_id) ORDER BY number OFFSET 0) AS numbers
"""
_OTHER_OUTCOMES = """
SELECT DISTINCT d.writer, d.event_id FROM unnest(%s::text[], %s::text[], %s::text[]) AS d (writer, event_id, intent_id)
JOIN audit_events e ON e.phase = 'outcome' AND e.writer = d.writer AND e.intent_id = d.intent_id
WHERE e.event_id <> d.event_id
"""

LOCK_PATIENCE = 1000
"""Milliseconds to wait for a log that another session holds."""

COMMIT_PATIENCE = 30_000
"""Milliseconds for one statement of a commit: a database that hangs is one that is away."""

MONTHS = 1200
"""Partitions at most; times beyond go to the default one."""


class _Closed(Exception):
    """Intents of some outcomes have other ones by now."""

    def __init__(self, outcomes: set[Key]) -> None:
        super().__init__()
        self.outcomes = outcomes


class PostgresStore:
    """Appends records and their signed tree heads, all of one commit or none of it.

    A session lock keeps a second process off the log while the first one is connected; the ownership epoch, which
    every commit compares and locks, fences off one that lost its connection and does not know it (R23).
    """

    errors: type[Exception] = psycopg.Error

    def __init__(
        self, url: str, log_id: str, signer: NoteSigner, previous: NoteSigner | None = None, *, may_create: bool = True
    ) -> None:
        """Opens or makes the log and checks it against its last signed root.

        Raises:
            StartupError: the database or the log cannot be used; the message says why, without the password.
        """
        check_url(url)
        self.name = f"{describe(url)} log {log_id}"
        self._url, self._log_id, self._signer = url, log_id, signer
        self._months: set[str] = set()
        migrate(url, describe(url))
        try:
            self._connection = connect(url)
        except psycopg.Error as error:
            raise StartupError(f"{self.name}: the database cannot be reached ({type(error).__name__})") from error
        try:
            self._open(previous, may_create=may_create)
        except psycopg.Error as error:
            self._connection.close()
            raise StartupError(f"{self.name}: the audit store cannot be opened: {_reason(error)}") from error
        except BaseException:
            self._connection.close()
            raise

    def _open(self, previous: NoteSigner | None, *, may_create: bool) -> None:
        self._lock()
        if (what := layout.foreign(self._connection)) is not None:
            raise damaged(self.name, what)
        view = LogView(self._connection, self._log_id)
        with self._connection.transaction():
            if view.execute("SELECT 1 FROM log").fetchone() is None:
                if not may_create:
                    raise StartupError(
                        f"{self.name}: the audit store is missing or empty, but there are records or checkpoints of "
                        "it; restore the database from a backup, or move its mirror and checkpoint aside"
                    )
                self._create()
            log = check_log(self.name, view, self._signer, previous)
            if log.handover is not None:
                self._insert_key(len(log.keys), log.handover)
                if log.retired.note:
                    self._insert_tombstone(log.retired.size, signed_anew(log.retired, self._signer))
            self.keys = log.keys.followed_by(log.handover)
            self.epoch = log.epoch + 1
            self._connection.execute("UPDATE audit_logs SET epoch = %s WHERE log_id = %s", (self.epoch, self._log_id))
        self._tree, self._number, self.checkpoint = log.tree, log.number, log.note
        self._gone = log.retired.tree
        self._bound()

    def _bound(self) -> None:
        """Bounds each statement from now on; opening and taking up may read long."""
        self._connection.execute(f"SET statement_timeout = '{COMMIT_PATIENCE}ms'".encode())

    def _lock(self) -> None:
        """Waits a moment: the session of a process that has just ended may not have ended yet."""
        self._connection.execute(f"SET lock_timeout = '{LOCK_PATIENCE}ms'".encode())
        try:
            self._connection.execute(
                "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"kubegate audit {self._log_id}",)
            )
        except psycopg.errors.LockNotAvailable as error:
            raise StartupError(
                f"{self.name}: the audit store is in use by another process; stop that one first, or give this one "
                "a `log_id` of its own"
            ) from error

    def _create(self) -> None:
        verifier, empty = self._signer.verifier, Tree()
        self._connection.execute("INSERT INTO audit_logs VALUES (%s, %s, 0)", (self._log_id, verifier.name))
        self._insert_key(0, KeyRow(verifier.vkey, 0, ""))
        self._insert_checkpoint(0, 0, empty.root(), self._signer.sign(0, empty.root()))

    def _insert_key(self, number: int, row: KeyRow) -> None:
        values = (self._log_id, number, row.vkey, row.first, row.handover)
        self._connection.execute("INSERT INTO audit_keys VALUES (%s, %s, %s, %s, %s)", values)

    def _insert_checkpoint(self, number: int, size: int, root: bytes, note: str) -> None:
        values = (self._log_id, number, size, root, note)
        self._connection.execute("INSERT INTO audit_checkpoints VALUES (%s, %s, %s, %s, %s)", values)

    def _insert_tombstone(self, size: int, note: str) -> None:
        values = (self._log_id, size, note, self._log_id)
        self._connection.execute(
            "INSERT INTO audit_tombstones SELECT %s, count(*), %s, %s FROM audit_tombstones WHERE log_id = %s", values
        )

    @property
    def size(self) -> int:
        """Number of committed records, deleted ones included."""
        return self._tree.size

    @property
    def first(self) -> int:
        """Leaf index of the first record that retention has not deleted."""
        return self._gone.size

    def commit(self, drafts: Sequence[Draft]) -> Committed:
        """Stores drafts in one transaction, each of them once however often it comes; durable on return.

        Raises:
            psycopg.Error: nothing is known about the transaction; call ``recover`` before the next one.
            StoreBroken: another process owns the log by now.
        """
        batch = build(self._tree, drafts, {})
        self._make_months(batch)
        closed: set[Key] = set()
        stored: Mapping[Key, tuple[int, bytes]] = {}
        while True:
            try:
                committed = self._commit(batch)
                break
            except UniqueViolation:
                # Most events are new: their keys are looked up only where the index objects.
                if stored:
                    raise
                stored = self._stored(drafts)
            except _Closed as error:
                closed |= error.outcomes
            batch = build(self._tree, [draft for draft in drafts if draft.key not in closed], stored)
        answers = iter(committed.answers)
        refusal = AlreadyExists("The intent has another outcome already.")
        return Committed([refusal if draft.key in closed else next(answers) for draft in drafts], committed.lines)

    def _commit(self, batch: Batch) -> Committed:
        if not batch.rows:
            return batch.committed
        root = batch.tree.root()
        checkpoint = self._signer.sign(batch.tree.size, root)
        with self._connection.transaction():
            self._fence()
            self._check_outcomes(batch)
            self._insert(batch)
            self._insert_checkpoint(self._number + 1, batch.tree.size, root, checkpoint)
            self._finish()
        self._tree, self._number, self.checkpoint = batch.tree, self._number + 1, checkpoint
        return batch.committed

    def _finish(self) -> None:
        """The last moment before the commit."""

    def _fence(self) -> None:
        query = "SELECT epoch FROM audit_logs WHERE log_id = %s FOR UPDATE"
        row = self._connection.execute(query, (self._log_id,)).fetchone()
        if row is None or row[0] != self.epoch:
            raise StoreBroken(f"{self.name} was taken over by another process")

    def _check_outcomes(self, batch: Batch) -> None:
        """An intent has one outcome (R5), whichever replica each of two is sent to at the same moment: the second one
        waits for the first one's commit and then sees it."""
        rows = [row for row in batch.rows if row[_PHASE] == Phase.OUTCOME]
        if not rows:
            return
        columns = [[row[column] for row in rows] for column in (_WRITER, _EVENT_ID, _INTENT_ID)]
        self._connection.execute(_LOCK_INTENTS, (columns[0], columns[2]))
        found = self._connection.execute(_OTHER_OUTCOMES, columns).fetchall()
        if found:
            raise _Closed({(writer, event_id) for writer, event_id in found})

    def _insert(self, batch: Batch) -> None:
        with self._connection.cursor() as cursor:
            with cursor.copy("COPY audit_event_keys FROM STDIN") as copy:
                for row in batch.rows:
                    copy.write_row((row[_WRITER], row[_EVENT_ID], self._log_id, row[0]))
            with cursor.copy(_EVENTS.encode()) as copy:
                for row in batch.rows:
                    copy.write_row((self._log_id, *row))
            if batch.nodes:
                with cursor.copy("COPY audit_nodes FROM STDIN") as copy:
                    for node in batch.nodes:
                        copy.write_row((self._log_id, *node))

    def _make_months(self, batch: Batch) -> None:
        """Partitions for months that are new. Where events of a month lie in the default partition already, or
        another replica was first, it stays as it is."""
        for month in {row[_TIMESTAMP][:7] for row in batch.rows} - self._months:
            if len(self._months) < MONTHS and (match := _MONTH.fullmatch(month)):
                year, number = int(match[1]), int(match[2])
                following = f"{year + number // 12:04}-{number % 12 + 1:02}"
                name = sql.Identifier(f"audit_events_{match[1]}_{match[2]}")
                statement = "CREATE TABLE IF NOT EXISTS {} PARTITION OF audit_events FOR VALUES FROM ({}) TO ({})"
                values = (name, sql.Literal(month), sql.Literal(following))
                try:
                    self._connection.execute(sql.SQL(statement).format(*values))
                except (psycopg.errors.CheckViolation, psycopg.errors.DuplicateTable, psycopg.errors.UniqueViolation):
                    pass
            self._months.add(month)

    def _stored(self, drafts: Sequence[Draft]) -> Mapping[Key, tuple[int, bytes]]:
        """What this log holds under the drafts' keys."""
        writers, ids = [draft.key[0] for draft in drafts], [draft.key[1] for draft in drafts]
        rows = self._connection.execute(
            "SELECT e.writer, e.event_id, e.sequence, e.event "
            "FROM unnest(%s::text[], %s::text[]) AS d (writer, event_id) "
            "JOIN audit_event_keys k ON k.writer = d.writer AND k.event_id = d.event_id AND k.log_id = %s "
            "JOIN audit_events e ON e.log_id = k.log_id AND e.sequence = k.sequence",
            (writers, ids, self._log_id),
        )
        return {(writer, event_id): (sequence, event) for writer, event_id, sequence, event in rows}

    def recover(self) -> Sequence[bytes]:
        """After a failed commit: connects anew and takes up what is there, for a commit that failed may have been
        persisted all the same. Returns the records that turned out to be there.

        Raises:
            psycopg.Error: the database still cannot be used.
            StoreBroken: it holds less than was acknowledged, or belongs to another process.
        """
        self._connection.close()
        try:
            self._connection = connect(self._url)
            self._lock()
        except StartupError as error:
            raise StoreBroken(str(error)) from error
        view = LogView(self._connection, self._log_id)
        with self._connection.transaction():
            self._fence()
            stored, number, note = view.execute(
                "SELECT size, number, note FROM checkpoints ORDER BY number DESC LIMIT 1"
            ).fetchone() or (0, 0, "")
            if number < self._number or stored < self._tree.size:
                raise StoreBroken(f"{self.name} has lost records that were acknowledged")
            query = "SELECT event, leaf FROM events WHERE sequence >= ? ORDER BY sequence"
            rows = view.execute(query, (self._tree.size,)).fetchall()
            tree, _ = self._tree.extend(leaf for _, leaf in rows)
            if ring(view.execute(ALL_KEYS)).open(number, note).root != tree.root():
                raise StoreBroken(f"{self.name} does not match its signed root")
            self._gone = read_retired(view, self.keys).tree
        self._tree, self._number, self.checkpoint = tree, number, note
        self._bound()
        return [event for event, _ in rows]

    def retire(self, until: str, most: int) -> int:
        """Deletes at most ``most`` segments from the beginning of the log on, all of whose events are older than
        ``until`` (RFC 3339) and under no hold of any log; returns how many. Raises as ``commit``."""
        with self._connection.transaction():
            # Whoever deletes looks through all keys of the log.
            self._connection.execute("SET LOCAL statement_timeout = 0")
            self._fence()
            until = limit(until, in_force(row[0] for row in self._connection.execute(HOLD_EVENTS).fetchall()))
            segments = deletable(LogView(self._connection, self._log_id), self.first, self.size, until, most)
            if not segments:
                return 0
            first, end = self.first, self.first + len(segments) * SEGMENT
            with self._connection.cursor() as cursor, cursor.copy("COPY audit_retired FROM STDIN") as copy:
                for number, leaves in enumerate(segments):
                    copy.write_row((self._log_id, first // SEGMENT + number, leaves))
            for table in ("audit_events", "audit_event_keys"):
                query = f"DELETE FROM {table} WHERE log_id = %s AND sequence < %s"  # noqa: S608 - one of the two
                self._connection.execute(query.encode(), (self._log_id, end))
            gone, _ = self._gone.extend(leaf for segment in segments for leaf in split(segment))
            self._insert_tombstone(
                end, Tombstone(self._signer.verifier.name, end, gone.root(), until).sign(self._signer)
            )
            self._finish()
        self._gone = gone
        return len(segments)

    def events(self, first: int = 0) -> Iterator[bytes]:
        """The canonical JSON of committed records, from a leaf index on."""
        reads = self.reads()
        try:
            position = max(first, self.first)
            while events := reads.events(position, PAGE):
                yield from events
                position += len(events)
        finally:
            reads.close()

    def root(self, size: int) -> bytes:
        """The root over the first ``size`` records, computed from the leaves and nodes."""
        reads = self.reads()
        try:
            return Prover(reads.nodes, size).root()
        finally:
            reads.close()

    def reads(self) -> PostgresReads:
        """A reading connection of its own."""
        return PostgresReads(self._url, self._log_id)

    def close(self) -> None:
        """Closes the connection, which gives up the log."""
        self._connection.close()


PAGE = 1000
"""Records read together."""


def _reason(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]
