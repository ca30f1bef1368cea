"""The store: one SQLite file, WAL, ``synchronous=FULL``, written by one thread.

Not safe for concurrent use; readers have a connection of their own (``sqlite_reads``). The tree in memory
changes only after the commit that it describes.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from services.audit.adapters.batch import Batch, Committed, Key, StoreBroken, build
from services.audit.adapters.opening import ADD_TOMBSTONE, Connect, connect, lock, open_checked
from services.audit.adapters.sqlite_reads import HOLD_EVENTS, SqliteReads
from services.audit.checkpoint import NoteSigner
from services.audit.keyring import ALL_KEYS, ring
from services.audit.ports import Draft
from services.audit.proofs import Prover
from services.audit.retention import SEGMENT, Tombstone, deletable, in_force, limit, read_retired, split
from services.audit.schema import COLUMNS

_ROW = f"(?, ?, ?{', ?' * len(COLUMNS)})"
_INSERT = f"INSERT INTO events VALUES {_ROW}"  # noqa: S608 - no values in it
CHUNK = 64
"""Rows of one statement: each statement hands the interpreter to the event loop and waits to get it back."""

_INSERT_CHUNK = f"INSERT INTO events VALUES {', '.join([_ROW] * CHUNK)}"  # noqa: S608 - no values in it
_NODES = "INSERT INTO nodes VALUES (?, ?, ?)"
_CHECKPOINT = "INSERT INTO checkpoints (number, size, root, note) VALUES (?, ?, ?, ?)"
_STORED = "SELECT sequence, event FROM events WHERE writer = ? AND event_id = ?"


class SqliteStore:
    """Appends records and their signed tree heads, all of one commit or none of it."""

    errors: type[Exception] = sqlite3.Error

    def __init__(
        self,
        path: Path,
        signer: NoteSigner,
        previous: NoteSigner | None = None,
        *,
        may_create: bool = True,
        connect: Connect = connect,
    ) -> None:
        """Opens or makes the store and checks it against its last signed root.

        Raises:
            StartupError: it is in use, foreign, damaged or truncated; the message names the file and the
                next step.
        """
        self.path = path
        self.name = str(path)
        self._signer = signer
        self._connect = connect
        self._lock = lock(path)
        try:
            opened = open_checked(path, signer, previous, may_create=may_create, connect=connect)
        except BaseException:
            os.close(self._lock)
            raise
        self._connection, self._tree = opened.connection, opened.tree
        self._number, self.checkpoint = opened.number, opened.note
        self.keys, self.epoch = opened.keys, opened.epoch
        self._gone = opened.gone

    @property
    def size(self) -> int:
        """Number of committed records."""
        return self._tree.size

    @property
    def first(self) -> int:
        """Leaf index of the first record that retention has not deleted."""
        return self._gone.size

    def commit(self, drafts: Sequence[Draft]) -> Committed:
        """Stores drafts in one transaction, each of them once however often it comes; fsynced on return.

        Raises:
            sqlite3.Error: nothing is known about the transaction; call ``recover`` before the next one.
            StoreBroken: another process owns the store by now.
        """
        # Most events are new: their keys are looked up only where the unique index objects.
        batch = build(self._tree, drafts, {})
        self._begin()
        try:
            self._insert(batch)
        except sqlite3.IntegrityError:
            self._connection.execute("ROLLBACK")
            self._begin()
            batch = build(self._tree, drafts, self._stored(drafts))
            self._insert(batch)
        if not batch.rows:
            self._connection.execute("ROLLBACK")
            return batch.committed
        root = batch.tree.root()
        checkpoint = self._signer.sign(batch.tree.size, root)
        self._connection.execute(_CHECKPOINT, (self._number + 1, batch.tree.size, root, checkpoint))
        self._finish()
        self._tree, self._number, self.checkpoint = batch.tree, self._number + 1, checkpoint
        return batch.committed

    def _begin(self) -> None:
        """The fence (R23): whoever opened the store last owns it, though its file lock was circumvented."""
        self._connection.execute("BEGIN IMMEDIATE")
        (epoch,) = self._connection.execute("SELECT epoch FROM log").fetchone()
        if epoch != self.epoch:
            raise StoreBroken(f"{self.path} was taken over by another process")

    def _insert(self, batch: Batch) -> None:
        whole = len(batch.rows) // CHUNK * CHUNK
        for at in range(0, whole, CHUNK):
            self._connection.execute(_INSERT_CHUNK, tuple(chain.from_iterable(batch.rows[at : at + CHUNK])))
        if whole < len(batch.rows):
            self._connection.executemany(_INSERT, batch.rows[whole:])
        if batch.nodes:
            self._connection.executemany(_NODES, batch.nodes)

    def _finish(self) -> None:
        self._connection.execute("COMMIT")

    def _stored(self, drafts: Sequence[Draft]) -> Mapping[Key, tuple[int, bytes]]:
        """What is there under the drafts' keys."""
        found = {draft.key: self._connection.execute(_STORED, draft.key).fetchone() for draft in drafts}
        return {key: row for key, row in found.items() if row is not None}

    def recover(self) -> Sequence[bytes]:
        """After a failed commit: opens the file anew and takes up what it holds, for a commit that failed
        may have been persisted all the same. Returns the records that turned out to be there.

        Raises:
            sqlite3.Error: the file still cannot be used.
            StoreBroken: it holds less than was acknowledged, or belongs to another process.
        """
        self._connection.close()
        self._connection = self._connect(self.path)
        (epoch,) = self._connection.execute("SELECT epoch FROM log").fetchone()
        if epoch != self.epoch:
            raise StoreBroken(f"{self.path} was taken over by another process")
        stored, number, note = self._connection.execute(
            "SELECT size, number, note FROM checkpoints ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, 0, "")
        if number < self._number or stored < self._tree.size:
            raise StoreBroken(f"{self.path} has lost records that were acknowledged")
        rows: list[Any] = self._connection.execute(
            "SELECT event, leaf FROM events WHERE sequence >= ? ORDER BY sequence", (self._tree.size,)
        ).fetchall()
        tree, _ = self._tree.extend(leaf for _, leaf in rows)
        if ring(self._connection.execute(ALL_KEYS)).open(number, note).root != tree.root():
            raise StoreBroken(f"{self.path} does not match its signed root")
        self._gone = read_retired(self._connection, self.keys).tree
        self._tree, self._number, self.checkpoint = tree, number, note
        return [event for event, _ in rows]

    def retire(self, until: str, most: int) -> int:
        """Deletes at most ``most`` segments from the beginning of the log on, all of whose events are older than
        ``until`` (RFC 3339) and under no hold; returns how many. Raises as ``commit``; nothing is deleted then."""
        self._begin()
        until = limit(until, in_force(row[0] for row in self._connection.execute(HOLD_EVENTS).fetchall()))
        segments = deletable(self._connection, self.first, self.size, until, most)
        if not segments:
            self._connection.execute("ROLLBACK")
            return 0
        end = self.first + len(segments) * SEGMENT
        # What is deleted is not to be read from the file's free pages either.
        self._connection.execute("PRAGMA secure_delete = ON")
        rows = [(self.first // SEGMENT + number, leaves) for number, leaves in enumerate(segments)]
        self._connection.executemany("INSERT INTO retired VALUES (?, ?)", rows)
        self._connection.execute("DELETE FROM events WHERE sequence < ?", (end,))
        gone, _ = self._gone.extend(leaf for segment in segments for leaf in split(segment))
        note = Tombstone(self._signer.verifier.name, end, gone.root(), until).sign(self._signer)
        self._connection.execute(ADD_TOMBSTONE, (end, note))
        self._finish()
        self._gone = gone
        self._connection.execute("PRAGMA secure_delete = OFF")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return len(segments)

    def events(self, first: int = 0) -> Iterator[bytes]:
        """The canonical JSON of committed records, from a leaf index on."""
        query = "SELECT event FROM events WHERE sequence >= ? ORDER BY sequence"
        for (event,) in self._connection.execute(query, (first,)):
            yield event

    def root(self, size: int) -> bytes:
        """The root over the first ``size`` records, computed from the leaves and nodes."""
        reads = SqliteReads(self.path)
        try:
            return Prover(reads.nodes, size).root()
        finally:
            reads.close()

    def reads(self) -> SqliteReads:
        """A reading connection of its own."""
        return SqliteReads(self.path)

    def close(self) -> None:
        """Closes the file and lets another process have it."""
        self._connection.close()
        os.close(self._lock)
