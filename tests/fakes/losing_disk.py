"""A disk that loses at the kill whatever was not fsynced (R24): an apsw VFS under SQLite's own SQL layer.

Writes stay in this process until SQLite syncs their file; only then do they reach the real one. So a SIGKILL
loses exactly what a power failure may lose, which a kill over the kernel's page cache does not. ``die_at`` ends
the disk's life at its n-th operation without a process dying: what was written since the last sync then persists
in part or not at all, and torn within a page, as the random source says.

apsw carries a SQLite of its own; the store's connection factory is the port that takes it.
"""

import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw

from services.audit.adapters.opening import prepare

SECTOR = 512


class File:
    """What the process sees of a file, and the writes since its last sync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = bytearray(path.read_bytes() if path.exists() else b"")
        self.unsynced: list[tuple[int, bytes | None]] = []

    def write(self, data: bytes, offset: int) -> None:
        if len(self.seen) < offset:
            self.seen.extend(bytes(offset - len(self.seen)))
        self.seen[offset : offset + len(data)] = data
        self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        del self.seen[size:]
        self.unsynced.append((size, None))

    def persist(self, writes: Iterable[tuple[int, bytes | None]]) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for offset, data in writes:
                if data is None:
                    os.ftruncate(descriptor, offset)
                else:
                    os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)


class LosingDisk(apsw.VFS):
    """The VFS. ``capacity``: bytes of all files together, beyond which a write fails as on a full disk."""

    def __init__(self, *, die_at: int | None = None, seed: int = 0, capacity: int | None = None) -> None:
        self.name = f"losing-{id(self)}"
        super().__init__(self.name, "")
        self.files: dict[str, File] = {}
        self.operations, self.syncs = 0, 0
        self.die_at, self.dead = die_at, False
        self.capacity = capacity
        self.fail_sync: Callable[[], bool] = lambda: False
        """Whether the next sync reports an error; ``persist_failed`` says whether it was done all the same."""
        self.persist_failed = False
        self._random = random.Random(seed)

    def xOpen(self, name: Any, flags: list[int]) -> "Handle":
        return Handle(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.files.pop(filename, None)
        if not self.dead:
            super().xDelete(filename, syncdir)

    def file(self, name: str) -> File:
        return self.files.setdefault(name, File(Path(name)))

    def step(self) -> None:
        """Counts an operation; the one that it dies at takes place no more."""
        self.operations += 1
        if self.die_at == self.operations and not self.dead:
            self.dead = True
            for file in self.files.values():
                file.persist(self._torn(file.unsynced))

    def _torn(self, writes: Sequence[tuple[int, bytes | None]]) -> list[tuple[int, bytes | None]]:
        """What a power failure leaves of writes that nobody synced: any of them, any sectors of them."""
        left: list[tuple[int, bytes | None]] = []
        mode = self._random.choice(("none", "prefix", "any", "sectors"))
        for number, (offset, data) in enumerate(writes):
            if mode == "none" or (mode == "prefix" and number >= len(writes) // 2):
                break
            if mode == "any" and self._random.random() < 0.5:
                continue
            if data is None or mode != "sectors":
                left.append((offset, data))
                continue
            for at in range(0, len(data), SECTOR):
                if self._random.random() < 0.5:
                    left.append((offset + at, data[at : at + SECTOR]))
        return left

    def room_for(self, size: int) -> bool:
        return self.capacity is None or sum(len(file.seen) for file in self.files.values()) + size <= self.capacity

    def connect(self, *, synchronous: str = "FULL") -> Callable[[Path], Any]:
        """The store's connection factory on this disk."""

        def connect(path: Path) -> Connection:
            connection = Connection(apsw.Connection(str(path), vfs=self.name))
            prepare(connection)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            # Often, to be hit in the middle of it; a checkpoint syncs, so not where syncs are meant to be missing.
            connection.execute(f"PRAGMA wal_autocheckpoint = {8 if synchronous == 'FULL' else 1000}")
            return connection

        return connect


class Handle(apsw.VFSFile):
    """One open file. Locks and shared memory are the operating system's, for they die with a process anyway."""

    def __init__(self, disk: LosingDisk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._file = disk.file(name.filename() if isinstance(name, apsw.URIFilename) else str(name))

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._file.seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        grown = offset + len(data) - len(self._file.seen)
        if grown > 0 and not self._disk.room_for(grown):
            raise apsw.FullError("the disk is full")
        self._disk.step()
        self._file.write(bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.step()
        self._file.truncate(newsize)

    def xFileSize(self) -> int:
        return len(self._file.seen)

    def xSync(self, flags: int) -> None:
        self._disk.syncs += 1
        self._disk.step()
        failing = self._disk.fail_sync()
        if not self._disk.dead and (not failing or self._disk.persist_failed):
            writes, self._file.unsynced = self._file.unsynced, []
            self._file.persist(writes)
        if failing:
            raise apsw.IOError("fsync failed")


class Connection:
    """An apsw connection as the store expects one: sqlite3's methods and errors."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._translated(self._connection.execute, sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._translated(self._connection.executemany, sql, rows)

    def close(self) -> None:
        self._translated(self._connection.close)

    def _translated(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except apsw.ConstraintError as error:
            raise sqlite3.IntegrityError(str(error)) from error
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error
