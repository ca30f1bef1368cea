"""A whole store, with its mirror, in one walk."""

import fcntl
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from services.audit import layout
from services.audit.checkpoint import BadCheckpoint, Checkpoint, NoteVerifier
from services.audit.keyring import ALL_KEYS, KeyRing, ring
from services.audit.merkle import Node, Tree, leaf_hash
from services.audit.retention import read_retired, split
from services.audit.schema import APPLICATION_ID, COLUMNS, VERSION, derive
from services.audit.verify.findings import Altered, Report, Unreadable, record


def verify_store(
    path: Path, verifier: NoteVerifier, mirror: Path | None = None, heads: Mapping[str, str] = MappingProxyType({})
) -> Report:
    """Checks a whole store against a public key of the log, and the mirror file line by line. ``heads``: signed tree
    heads that were published, witnessed or kept elsewhere, by where they lie; the store must have them all.

    Works while the service runs: it reads one snapshot.

    Raises:
        Altered: names the first event, signed root or mirror line that is not as it was recorded.
        Unreadable: a file is missing, or the store is not an audit store of kubegate.
    """
    if not path.is_file():
        raise Unreadable(f"{path}: there is no such file")
    try:
        state = _left_by(path)
        if path.with_name(path.name + "-journal").exists():
            raise Altered(f"{path}-journal: audit leaves no rollback journal; SQLite would put it over the store")
        lines = _Mirror(mirror.open("rb") if mirror else None, mirror, state)
    except OSError as error:
        raise Unreadable(f"{mirror}: the mirror cannot be read: {error.strerror}") from error
    try:
        connection = _connect(path, state)
        # Broken text is altered text, not an unreadable file.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            connection.execute("BEGIN")
            report = _StoreCheck(connection, verifier, lines, heads).run()
            if (what := layout.foreign(connection)) is not None:
                raise Altered(f"the events are intact, but the store is not: {what}")
            return report
        finally:
            connection.close()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise Unreadable(f"{path}: cannot be read as a SQLite database: {error}") from error
    finally:
        lines.close()


def check_tables(
    connection: Any, verifier: NoteVerifier, mirror: Path | None, heads: Mapping[str, str], *, running: bool
) -> Report:
    """The walk over the tables of a connection that is in a transaction. ``running``: the service may be writing.

    Raises:
        Altered, Unreadable: as ``verify_store``.
    """
    state = _State.RUNNING if running else _State.CRASHED
    try:
        lines = _Mirror(mirror.open("rb") if mirror else None, mirror, state)
    except OSError as error:
        raise Unreadable(f"{mirror}: the mirror cannot be read: {error.strerror}") from error
    try:
        return _StoreCheck(connection, verifier, lines, heads).run()
    finally:
        lines.close()


def leaves_of(path: Path, verifier: NoteVerifier, heads: Mapping[str, str]) -> tuple[Sequence[bytes], int]:
    """The leaf hashes of a store, which is verified first, with ``heads``, and how many of
    them are of deleted events. Raises as ``verify_store``."""
    size = verify_store(path, verifier, heads=heads).events
    connection = _connect(path, _left_by(path))
    try:
        segments = connection.execute("SELECT leaves FROM retired ORDER BY segment").fetchall()
        rows = connection.execute("SELECT leaf FROM events WHERE sequence < ? ORDER BY sequence", (size,))
        gone = [leaf for (segment,) in segments for leaf in split(segment)]
        return [*gone, *(row[0] for row in rows)], len(gone)
    finally:
        connection.close()


class _StoreCheck:
    """One walk over events, signed roots and mirror lines in step."""

    def __init__(self, connection: Any, verifier: NoteVerifier, mirror: "_Mirror", heads: Mapping[str, str]) -> None:
        self._connection, self._verifier, self._mirror, self._heads = connection, verifier, mirror, heads
        self._seen: dict[int, list[tuple[str, Checkpoint]]] = {}
        """Tree heads kept elsewhere, by their size."""
        self._tree = Tree()
        self._nodes = self._retired = 0
        self._proven = 0
        """Leaves under the last signed root that was reached."""
        self._suspect: int | None = None
        """The first event since then that the mirror has otherwise; the next signed root tells which is right."""
        self._mirror_lags = False
        """The mirror lacks the last commit, as a crash between commit and mirror leaves it."""

    def run(self) -> Report:
        self._keys = self._check_identity()
        self._open_heads()
        checkpoints = self._checkpoints()
        count, head = 1, next(checkpoints, None)
        if head is None or head.size != 0 or head.root != self._tree.root():
            raise Altered("signed root 0 (of the empty log) is missing or altered", 0)
        head = next(checkpoints, None)
        for leaf in self._leaves():
            self._grow(leaf)
            if head is not None and head.size == self._tree.size:
                self._reach(head)
                count, head = count + 1, next(checkpoints, None)
        if head is not None:
            raise Altered(
                f"event {self._tree.size} is missing: a signed root covers {head.size} events", self._tree.size
            )
        if self._proven != self._tree.size:
            raise Altered(f"event {self._proven} and what follows is under no signed root", self._proven)
        (nodes,) = self._connection.execute("SELECT count(*) FROM nodes").fetchone()
        if nodes != self._nodes:
            raise Altered(f"the events are intact, but the tree has {nodes} nodes instead of {self._nodes}")
        for size, seen in sorted(self._seen.items()):
            where, _ = seen[0]
            raise Altered(
                f"event {self._tree.size} is missing: {where} is a signed root over {size} events", self._tree.size
            )
        (structure,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if structure != "ok":
            raise Altered(f"the events are intact, but the file's structure is not: {structure}")
        self._connection.execute("COMMIT")
        self._check_rest_of_mirror()
        mirrored = self._mirror.taken if self._mirror.there else None
        return Report(self._tree.size, count, self._tree.root(), mirrored, self._retired, self._keys.vkeys)

    def _leaves(self) -> Iterator[bytes]:
        """Leaf hashes in order: those that are left of deleted events, then those of events that check out."""
        try:
            retired = read_retired(self._connection, self._keys)
        except BadCheckpoint as error:
            raise Altered(f"what is left of deleted events is altered: {error}", 0) from error
        self._retired = retired.size
        for leaf in retired.leaves():
            self._mirror.skip(leaf)
            yield leaf
        columns = ", ".join(f'"{name}"' for name in COLUMNS)
        query = f"SELECT sequence, event, leaf, {columns} FROM events ORDER BY sequence"  # noqa: S608
        for row in self._connection.execute(query):
            self._take(row[0], row[1], row[2], row[3:])
            yield row[2]

    def _check_identity(self) -> KeyRing:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (APPLICATION_ID, VERSION):
            raise Unreadable("not an audit store of this version of kubegate")
        origins = self._connection.execute("SELECT origin FROM log").fetchall()
        try:
            keys = ring(self._connection.execute(ALL_KEYS))
        except BadCheckpoint as error:
            raise Altered(f"the keys of the log are altered: {error}", 0) from error
        if origins != [(self._verifier.name,)] or self._verifier not in keys:
            raise Altered(f"the store does not belong to the log {self._verifier.vkey}")
        return keys

    def _open_heads(self) -> None:
        for where, note in self._heads.items():
            try:
                head = self._keys.open_any(note)
            except BadCheckpoint as error:
                raise Altered(f"{where} is not a signed root of this log: {error}") from error
            self._seen.setdefault(head.size, []).append((where, head))
        self._compare_heads()

    def _compare_heads(self) -> None:
        for where, head in self._seen.pop(self._tree.size, ()):
            if head.root != self._tree.root():
                raise Altered(
                    f"one of the events 0 to {head.size - 1} is altered: {where} is another signed root over "
                    f"{head.size} events"
                )

    def _checkpoints(self) -> Iterator[Checkpoint]:
        """Signed roots in order, each checked by itself."""
        last = -1
        rows = self._connection.execute("SELECT number, size, root, note FROM checkpoints ORDER BY number")
        for index, (number, size, root, note) in enumerate(rows):
            if number != index:
                raise Altered(f"signed root {index} is missing", self._proven)
            try:
                checkpoint = self._keys.open(number, note)
            except BadCheckpoint as error:
                raise Altered(f"signed root {number} is altered: {error}", self._proven) from error
            if (checkpoint.size, checkpoint.root) != (size, root) or size <= last:
                raise Altered(f"signed root {number} is altered: it does not agree with its columns", self._proven)
            last = size
            yield checkpoint

    def _take(self, sequence: int, event: bytes, leaf: bytes, columns: Sequence[str]) -> None:
        expected = self._tree.size
        if sequence != expected:
            raise Altered(f"event {expected} is missing", expected)
        fields = record(event, expected, f"event {expected}")
        if leaf_hash(event) != leaf:
            raise Altered(f"event {expected} is altered: it does not hash to its leaf", expected)
        for name, stored, derived in zip(COLUMNS, columns, derive(fields), strict=True):
            if stored != derived:
                raise Altered(f"event {expected} is altered: its column {name} does not agree with it", expected)
        if self._suspect is None and not self._mirror.agrees(event):
            self._suspect = expected

    def _grow(self, leaf: bytes) -> None:
        self._tree, nodes = self._tree.extend((leaf,))
        for node in nodes:
            self._check_node(node)
        if self._seen:
            self._compare_heads()

    def _check_node(self, node: Node) -> None:
        query = "SELECT hash FROM nodes WHERE level = ? AND position = ?"
        if self._connection.execute(query, node[:2]).fetchall() != [(node.hash,)]:
            first = node.position << node.level
            raise Altered(
                f"the tree is altered: node {node.position} of level {node.level}, over the events {first} to "
                f"{first + (1 << node.level) - 1}",
                first,
            )
        self._nodes += 1

    def _reach(self, head: Checkpoint) -> None:
        first, last = self._proven, self._tree.size - 1
        if head.root != self._tree.root():
            if self._suspect is not None:
                raise Altered(f"event {self._suspect} is altered: the mirror has it otherwise", self._suspect)
            which = f"event {first} is" if first == last else f"one of the events {first} to {last} is"
            raise Altered(f"{which} altered: they do not lead to the signed root over {head.size} events", first)
        if self._suspect is not None and (self._mirror_lags or not self._mirror.lags_by_crash):
            raise Altered(self._mirror.complaint(), self._suspect)
        self._mirror_lags = self._suspect is not None
        self._proven = head.size

    def _check_rest_of_mirror(self) -> None:
        """Lines beyond the snapshot must have been committed meanwhile."""
        if self._mirror_lags:
            return
        lines = list(self._mirror.rest())
        rows = self._connection.execute(
            "SELECT event FROM events WHERE sequence >= ? ORDER BY sequence", (self._tree.size,)
        )
        newer = [row[0] + b"\n" for row in rows]
        for position, line in enumerate(lines):
            if position >= len(newer) or not (line == newer[position] or _torn(line, newer[position])):
                sequence = self._tree.size + position
                raise Altered(f"{self._mirror.name}: line {sequence + 1} is not in the store", sequence)


class _Mirror:
    """The mirror file, read along with the store."""

    _TRIES, _PAUSE = 20, 0.05

    def __init__(self, file: BinaryIO | None, name: Path | None, state: "_State") -> None:
        self.there, self.name, self._file, self._state = file is not None, name, file, state
        self.taken = self._deleted = 0
        self.lags_by_crash = False
        self._got = b""

    def agrees(self, event: bytes) -> bool:
        """Whether the next line is that event. A running service writes it just after its commit."""
        if self._file is None:
            return True
        start = self._file.tell()
        for _ in range(self._TRIES):
            self._got = self._file.readline()
            if self._got.endswith(b"\n") or self._state is not _State.RUNNING:
                break
            self._file.seek(start)
            time.sleep(self._PAUSE)
        if self._got == event + b"\n":
            self.taken += 1
            return True
        self.lags_by_crash = self._state is _State.CRASHED and _torn(self._got, event)
        return False

    def skip(self, leaf: bytes) -> None:
        """Passes by the line of a deleted event, which a crash may have left there."""
        if self._file is None:
            return
        start = self._file.tell()
        line = self._file.readline()
        if leaf_hash(line[:-1]) == leaf:
            self.taken += 1
        else:
            self._file.seek(start)
            self._deleted += 1

    def complaint(self) -> str:
        """What is wrong with the line that did not agree, once the store is known to be right."""
        line, event = self.taken + 1, self.taken + self._deleted
        if not self._got.endswith(b"\n"):
            what = f"event {event} is missing: the mirror ends before line {line}"
        else:
            what = f"event {event} is altered, missing or out of place: line {line} differs from the store"
        return f"{self.name}: {what}; the store is intact up to there"

    def rest(self) -> Iterator[bytes]:
        """The lines that are left."""
        return iter(self._file or ())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _torn(line: bytes, event: bytes) -> bool:
    """Whether a line is the beginning of an event that was not written to its end."""
    return not line.endswith(b"\n") and event.startswith(line)


def _connect(path: Path, state: "_State") -> sqlite3.Connection:
    """A reading connection. SQLite writes nothing beside a file that is said to be immutable."""
    how = "immutable=1" if state is _State.CLOSED else "mode=ro"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None)


class _State(Enum):
    """What the service that writes the store is doing, or how it ended."""

    RUNNING = auto()
    CLOSED = auto()
    CRASHED = auto()
    """It may have left the last commit out of the mirror."""


def _left_by(store: Path) -> _State:
    """Tells it by the lock of a running service, and by the write-ahead log that a killed one leaves."""
    wal, lock = store.with_name(store.name + "-wal"), store.with_name(store.name + ".lock")
    if lock.exists():
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return _State.RUNNING
    return _State.CRASHED if wal.exists() and wal.stat().st_size > 0 else _State.CLOSED
