"""Opening the store: making a new one, or checking an old one against its last signed root.

Nothing is repaired and nothing is written to a store that does not check out. Every refusal names the file,
what is wrong, and the next step.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.audit import layout
from services.audit.adapters.migrate import STEPS
from services.audit.checkpoint import BadCheckpoint, NoteSigner
from services.audit.keyring import ALL_KEYS, KeyRing, KeyRow, hand_over, ring
from services.audit.merkle import Tree
from services.audit.retention import Retired, read_retired, signed_anew
from services.audit.schema import APPLICATION_ID, TABLES, VERSION
from services.common.log import get_logger
from services.common.runtime_errors import StartupError

_HEADER = b"SQLite format 3\x00"

_BLOCK = 4096
"""SQLite reserves its shared memory a byte in every so many: where blocks are smaller, a full disk leaves holes."""

_NEXT = {
    sqlite3.SQLITE_FULL: "make room on its disk and start again",
    sqlite3.SQLITE_IOERR: "see that its disk works and has room, and start again",
    sqlite3.SQLITE_READONLY: "make the file and its directory writable for this user, and start again",
    sqlite3.SQLITE_CANTOPEN: "make the file and its directory writable for this user, and start again",
    sqlite3.SQLITE_PERM: "make the file and its directory writable for this user, and start again",
    sqlite3.SQLITE_BUSY: "stop the other program that has it open, and start again",
}
"""Result codes of SQLite that say nothing against the store, and what to do then."""

log = get_logger("audit.store")


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that checked out: its connection, tree, the number of the newest checkpoint and its note, its
    keys, and the ownership epoch that this opening began."""

    connection: Any
    tree: Tree
    number: int
    note: str
    keys: KeyRing
    epoch: int
    gone: Tree
    """Over the events that retention deleted."""


Connect = Callable[[Path], Any]
"""Opens a store for writing, every commit fsynced. What it returns is a ``sqlite3.Connection``, or has its
``execute``, ``executemany`` and ``close`` and raises its errors."""


def lock(path: Path) -> int:
    """Keeps every other audit process off the store; returns the descriptor that holds the lock.

    Raises:
        StartupError: another process has it, or the directory cannot be written.
    """
    # A file beside the store: closing any descriptor of the store itself would drop SQLite's own locks.
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(
            f"{path}: the audit store cannot be written: {error.strerror}; make {path.parent} a directory "
            "that this user may write, or change `store` in the configuration"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StartupError(
            f"{path}: the audit store is in use by another process; stop that one first (`kubegate down`)"
        ) from error
    return descriptor


def connect(path: Path) -> sqlite3.Connection:
    """The connection factory of production.

    Raises:
        sqlite3.Error: the file cannot be opened or is not a database.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        prepare(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: Any) -> None:
    """Makes every commit of a connection durable when it returns."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # KiB: the indexes' inner pages of some ten million events stay in memory.
    connection.execute("PRAGMA cache_size = -65536")
    # Pages of the write-ahead log between two checkpoints: pages that many commits touch are copied once.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")


def open_checked(
    path: Path, signer: NoteSigner, previous: NoteSigner | None, *, may_create: bool, connect: Connect
) -> Opened:
    """Opens the store, or makes it where there is none and ``may_create``. Where its key is that of ``previous``,
    that one hands over to ``signer``.

    Raises:
        StartupError: it is missing, foreign, damaged, truncated or cannot be written.
    """
    if not path.exists() or path.stat().st_size == 0:
        if not may_create:
            raise StartupError(
                f"{path}: the audit store is missing or empty, but there are records or checkpoints of it; restore "
                "the store from a backup, or move its mirror and checkpoint aside to begin a new log"
            )
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    elif _header(path) != _HEADER:
        raise damaged(path, "it is not a SQLite database")
    if (block := os.statvfs(path).f_bsize) < _BLOCK:
        log.warning(
            "small blocks: the kernel ends the service where this filesystem is full; nothing acknowledged is lost",
            store=str(path),
            block=block,
            wanted=_BLOCK,
        )
    try:
        connection = connect(path)
    except sqlite3.Error as error:
        raise _unopened(path, error) from error
    try:
        return _check(path, connection, signer, previous)
    except sqlite3.Error as error:
        connection.close()
        raise _unopened(path, error) from error
    except BaseException:
        connection.close()
        raise


def _unopened(path: Path, error: sqlite3.Error) -> StartupError:
    """A full or failing disk is no damage: whoever restored a backup then would lose events."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    step = _NEXT.get(code)
    if step is None:
        return damaged(path, str(error))
    return StartupError(f"{path}: the audit store cannot be opened: {error}. Nothing was changed; {step}")


def damaged(path: Path | str, what: str) -> StartupError:
    """The refusal of a store that does not check out."""
    return StartupError(
        f"{path}: the audit store is damaged: {what}. Nothing was changed. Run `kubegate audit verify` to "
        "see what is altered, then restore the store from a backup"
    )


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_HEADER))
    except OSError as error:
        raise StartupError(f"{path}: the audit store cannot be read: {error.strerror}") from error


def _check(path: Path, connection: Any, signer: NoteSigner, previous: NoteSigner | None) -> Opened:
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and tables == 0:
        _create(connection, signer)
    elif application != APPLICATION_ID:
        raise StartupError(
            f"{path}: this SQLite file is not an audit store of kubegate; set `store` in the configuration "
            "to the right file, or to a new one"
        )
    elif version != VERSION and version not in STEPS:
        raise StartupError(
            f"{path}: the audit store has schema version {version}, this program knows {VERSION}; install "
            "the version of kubegate that wrote it, or a newer one"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Within one transaction: what does not check out is left as it was.
        while version in STEPS and application == APPLICATION_ID:
            STEPS[version](connection)
            version += 1
            connection.execute(f"PRAGMA user_version = {version}")
        opened = _checked(path, connection, signer, previous)
        connection.execute("UPDATE log SET epoch = ?", (opened.epoch,))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return opened


def _create(connection: Any, signer: NoteSigner) -> None:
    verifier, empty = signer.verifier, Tree()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    for statement in filter(str.strip, TABLES.split(";")):
        connection.execute(statement)
    connection.execute("INSERT INTO log (id, origin, epoch) VALUES (1, ?, 0)", (verifier.name,))
    connection.execute("INSERT INTO keys VALUES (0, ?, 0, '')", (verifier.vkey,))
    connection.execute(
        "INSERT INTO checkpoints (number, size, root, note) VALUES (0, 0, ?, ?)",
        (empty.root(), signer.sign(0, empty.root())),
    )
    connection.execute("COMMIT")


def _checked(path: Path, connection: Any, signer: NoteSigner, previous: NoteSigner | None) -> Opened:
    """Structure, and what ``check_log`` checks."""
    for (finding,) in connection.execute("PRAGMA quick_check(1)"):
        if finding != "ok":
            raise damaged(path, f"the file's structure is broken ({finding})")
    if (what := layout.foreign(connection)) is not None:
        raise damaged(path, what)
    found = check_log(str(path), connection, signer, previous)
    if found.handover is not None:
        values = (len(found.keys), found.handover.vkey, found.handover.first, found.handover.handover)
        connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", values)
        if found.retired.note:
            # The new key speaks for what the old one deleted, so that an export can be verified with it alone.
            connection.execute(ADD_TOMBSTONE, (found.retired.size, signed_anew(found.retired, signer)))
    keys = found.keys.followed_by(found.handover)
    return Opened(connection, found.tree, found.number, found.note, keys, found.epoch + 1, found.retired.tree)


ADD_TOMBSTONE = "INSERT INTO tombstones SELECT count(*), ?, ? FROM tombstones"
"""The next tombstone: its size and note."""


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """A log that leads to its last signed root; ``handover`` is the row of a key that is to follow, ``retired`` what is
    kept of events that retention deleted."""

    tree: Tree
    number: int
    note: str
    keys: KeyRing
    epoch: int
    handover: KeyRow | None
    retired: Retired


def check_log(name: str, connection: Any, signer: NoteSigner, previous: NoteSigner | None) -> CheckedLog:
    """Owner, and the root over all leaf hashes against the last signed one. Reads the tables ``log``, ``keys``,
    ``checkpoints`` and ``events`` of the connection, and writes nothing.

    Raises:
        StartupError: it does not check out.
    """
    keys, epoch = _keys(name, connection, signer, previous)
    last = connection.execute("SELECT number, note FROM checkpoints ORDER BY number DESC LIMIT 1").fetchone()
    if last is None:
        raise damaged(name, "its signed roots are gone")
    try:
        checkpoint = keys.open(*last)
    except BadCheckpoint as error:
        raise damaged(name, f"its last signed root is not valid ({error})") from error
    try:
        retired = read_retired(connection, keys)
    except BadCheckpoint as error:
        raise damaged(name, str(error)) from error
    tree = Tree.of(_leaves(name, connection, retired))
    if tree.size != checkpoint.size:
        raise damaged(name, f"it holds {tree.size} events, its last signed root covers {checkpoint.size}")
    if tree.root() != checkpoint.root:
        raise damaged(name, f"its {tree.size} events do not match its last signed root")
    handover = None
    if keys.newest != signer.verifier and previous is not None:
        handover = hand_over(previous, signer, last[0] + 1)
    return CheckedLog(tree, last[0], last[1], keys, epoch, handover, retired)


def _leaves(name: str, connection: Any, retired: Retired) -> Iterator[bytes]:
    yield from retired.leaves()
    rows = connection.execute("SELECT sequence, leaf FROM events ORDER BY sequence")
    for position, (sequence, leaf) in enumerate(rows, retired.size):
        if sequence != position:
            raise damaged(name, f"event {position} is missing")
        yield leaf


def _keys(name: str, connection: Any, signer: NoteSigner, previous: NoteSigner | None) -> tuple[KeyRing, int]:
    """The log's keys, the newest of which must be ours, or that of the previous signer."""
    row = connection.execute("SELECT origin, epoch FROM log WHERE id = 1").fetchone()
    try:
        keys = ring(connection.execute(ALL_KEYS))
    except BadCheckpoint as error:
        raise damaged(name, str(error)) from error
    ours = [signer.verifier, *([previous.verifier] if previous else [])]
    if row is None or row[0] != signer.verifier.name or keys.newest not in ours:
        raise StartupError(
            f"{name}: the audit store belongs to the log {keys.newest.vkey}, not to {signer.verifier.vkey}; restore "
            "the `signing_key_file` and `log_id` that it was made with (to rotate its key, name the old one as "
            "`previous_signing_key_file`), or set `store` to a new file"
        )
    return keys, row[1]
