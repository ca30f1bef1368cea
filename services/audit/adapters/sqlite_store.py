"""The store: one SQLite file, WAL, ``synchronous=FULL``, written by one thread.

Not safe for concurrent use; readers have a connection of their own (``sqlite_reads``). The tree in memory
changes only after the commit that it describes.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.audit import canonical
from services.audit.adapters.opening import connect, lock, open_checked
from services.audit.checkpoint import NoteSigner
from services.audit.merkle import leaf_hash
from services.audit.ports import Ack, Draft
from services.audit.schema import COLUMNS, derive
from services.common.errors import AlreadyExists

_INSERT = f"INSERT INTO events VALUES (?, ?, ?{', ?' * len(COLUMNS)})"  # noqa: S608 - no values in it


class StoreBroken(Exception):
    """The file no longer holds what was acknowledged; only an operator can help."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one commit did: an answer for each draft, in order, and the lines that are new."""

    answers: Sequence[Ack | AlreadyExists]
    lines: Sequence[bytes]


class SqliteStore:
    """Appends records and their signed tree heads, all of one commit or none of it."""

    def __init__(self, path: Path, signer: NoteSigner, *, may_create: bool = True) -> None:
        """Opens or makes the store and checks it against its last signed root.

        Raises:
            StartupError: it is in use, foreign, damaged or truncated; the message names the file and the
                next step.
        """
        self.path = path
        self._signer = signer
        self._lock = lock(path)
        try:
            opened = open_checked(path, signer, may_create=may_create)
        except BaseException:
            os.close(self._lock)
            raise
        self._connection, self._tree = opened.connection, opened.tree
        self._number, self.checkpoint = opened.number, opened.note

    @property
    def size(self) -> int:
        """Number of committed records."""
        return self._tree.size

    def commit(self, drafts: Sequence[Draft]) -> Committed:
        """Stores drafts in one transaction, each of them once however often it comes; fsynced on return.

        Raises:
            sqlite3.Error: nothing is known about the transaction; call ``recover`` before the next one.
        """
        answers: list[Ack | AlreadyExists] = []
        rows: list[tuple[Any, ...]] = []
        fresh: dict[tuple[str, str], tuple[int, Draft]] = {}
        tree = self._tree
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        for draft in drafts:
            prior = self._prior(cursor, draft, fresh)
            if prior is not None:
                answers.append(prior)
                continue
            fields = {**draft.fields, "sequence": tree.size}
            event = canonical.encode(fields)
            leaf = leaf_hash(event)
            rows.append((tree.size, event, leaf, *derive(fields)))
            answers.append(Ack(draft.key[1], tree.size))
            fresh[draft.key] = tree.size, draft
            tree = tree.append(leaf)
        if not rows:
            cursor.execute("ROLLBACK")
            return Committed(answers, ())
        cursor.executemany(_INSERT, rows)
        checkpoint = self._signer.sign(tree.size, tree.root())
        cursor.execute(
            "INSERT INTO checkpoints (number, size, root, note) VALUES (?, ?, ?, ?)",
            (self._number + 1, tree.size, tree.root(), checkpoint),
        )
        self._finish(cursor)
        self._tree, self._number, self.checkpoint = tree, self._number + 1, checkpoint
        return Committed(answers, [row[1] for row in rows])

    def _finish(self, cursor: sqlite3.Cursor) -> None:
        cursor.execute("COMMIT")

    def _prior(
        self, cursor: sqlite3.Cursor, draft: Draft, fresh: dict[tuple[str, str], tuple[int, Draft]]
    ) -> Ack | AlreadyExists | None:
        """The answer for a draft whose key is taken, in this commit or before."""
        writer, event_id = draft.key
        if draft.key in fresh:
            sequence, earlier = fresh[draft.key]
            same = dict(earlier.fields) == dict(draft.fields)
        else:
            row = cursor.execute(
                "SELECT sequence, event FROM events WHERE writer = ? AND event_id = ?", draft.key
            ).fetchone()
            if row is None:
                return None
            sequence = row[0]
            same = canonical.decode(row[1]) == {**draft.fields, "sequence": sequence}
        if same:
            return Ack(event_id, sequence)
        return AlreadyExists(f"{writer} has recorded another event under the id {event_id}.")

    def recover(self) -> Sequence[bytes]:
        """After a failed commit: opens the file anew and takes up what it holds, for a commit that failed
        may have been persisted all the same. Returns the records that turned out to be there.

        Raises:
            sqlite3.Error: the file still cannot be used.
            StoreBroken: it holds less than was acknowledged.
        """
        self._connection.close()
        self._connection = connect(self.path)
        stored, number, note = self._connection.execute(
            "SELECT size, number, note FROM checkpoints ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, 0, "")
        if number < self._number or stored < self._tree.size:
            raise StoreBroken(f"{self.path} has lost records that were acknowledged")
        lines: list[bytes] = []
        tree = self._tree
        for event, leaf in self._connection.execute(
            "SELECT event, leaf FROM events WHERE sequence >= ? ORDER BY sequence", (tree.size,)
        ):
            lines.append(event)
            tree = tree.append(leaf)
        if self._signer.verifier.open(note).root != tree.root():
            raise StoreBroken(f"{self.path} does not match its signed root")
        self._tree, self._number, self.checkpoint = tree, number, note
        return lines

    def events(self, first: int = 0) -> Iterator[bytes]:
        """The canonical JSON of committed records, from a leaf index on."""
        cursor = self._connection.cursor()
        query = "SELECT event FROM events WHERE sequence >= ? ORDER BY sequence"
        for (event,) in cursor.execute(query, (first,)):
            yield event

    def close(self) -> None:
        """Closes the file and lets another process have it."""
        self._connection.close()
        os.close(self._lock)
