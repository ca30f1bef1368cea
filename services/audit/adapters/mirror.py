"""The mirror: the log as a JSON Lines file, for ``tail -f`` and shippers. The store is the truth.

A line is the canonical JSON of one record and a newline, in the order of the leaves. The mirror may lag
behind the store (a crash between commit and write) and is then brought up to date; what it holds beyond the
store, or differently, is evidence and never overwritten.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from services.audit.merkle import leaf_hash
from services.common.runtime_errors import StartupError


def _none(_first: int, _end: int) -> Sequence[bytes]:
    return ()


def _sequence(line: bytes) -> int | None:
    """The leaf index that a line says it has."""
    try:
        found = json.loads(line)["sequence"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, int) else None


def holds_records(path: Path) -> bool:
    """Whether a mirror file with at least one byte is there."""
    return path.exists() and path.stat().st_size > 0


class Mirror:
    """Appends lines to the file; after a failed write, ``catch_up`` continues after the last whole line."""

    def __init__(
        self, path: Path, events: Iterable[bytes], first: int = 0, leaves: Callable[[int, int], Sequence[bytes]] = _none
    ) -> None:
        """Opens the file and brings it up to date with the store's records, the first of which is ``first``.
        ``leaves``: leaf hashes of those before it, which retention deleted; the file may hold them still.

        Raises:
            StartupError: it cannot be written, or holds what the store does not.
        """
        self.path = path
        self.first = self.size = first
        """Leaf indices of the first record in the file, and of the next that it gets."""
        self.found = first
        """``size`` when it was opened."""
        self._leaves = leaves
        self._length = 0
        # What lies beyond ``_length`` is our own unfinished write.
        self._torn = True
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError(
                f"{path}: the audit mirror cannot be written: {error.strerror}; make its directory "
                "writable for this user, or change `mirror` in the configuration"
            ) from error
        try:
            self._reconcile(events)
        except OSError as error:
            os.close(self._file)
            raise StartupError(
                f"{path}: the audit mirror cannot be brought up to date: {error.strerror}; make room on its disk, or "
                "change `mirror` in the configuration, and start again"
            ) from error
        except BaseException:
            os.close(self._file)
            raise

    def _reconcile(self, events: Iterable[bytes]) -> None:
        """Compares line by line; keeps what is equal, refuses what differs, writes what is missing."""
        remaining = iter(events)
        with self.path.open("rb") as lines:
            self._drop(self._retired_lines(lines))
        with self.path.open("rb") as lines:
            for line in lines:
                event = next(remaining, None)
                if event is None:
                    raise self._refused(f"line {self.size + 1} is not in the store")
                if line == event + b"\n":
                    self._took(1, len(line))
                elif not line.endswith(b"\n") and event.startswith(line):
                    # Torn by a crash in the middle of the write.
                    self.found = self.size
                    self.catch_up(chain((event,), remaining))
                    return
                else:
                    raise self._refused(f"line {self.size + 1} differs from the store")
        self.found = self.size
        self.catch_up(remaining)

    def _retired_lines(self, lines: BinaryIO) -> int:
        """The bytes at the beginning that are lines of deleted events: a crash came before their deletion here."""
        begin, length = lines.readline(), 0
        position = _sequence(begin)
        if not self.first or position is None or position >= self.first:
            return 0
        for leaf in self._leaves(position, self.first):
            line = begin or lines.readline()
            begin = b""
            if not line.endswith(b"\n"):
                return self._length_of_file()
            if leaf_hash(line[:-1]) != leaf:
                raise self._refused(f"event {position} is deleted, and was another than the line that is still there")
            length, position = length + len(line), position + 1
        return length

    def _length_of_file(self) -> int:
        return os.fstat(self._file).st_size

    def cut(self, first: int) -> None:
        """Leaves out the lines before a leaf index. A new file takes the place of the old one; ``tail -F`` follows.

        Raises:
            OSError: it cannot be written; the old one stays.
        """
        self._check_ours()
        with self.path.open("rb") as lines:
            dropped = sum(len(lines.readline()) for _ in range(self.first, first))
        self._drop(dropped)
        self._length -= dropped
        self.first = first

    def _drop(self, length: int) -> None:
        if not length:
            return
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with self.path.open("rb") as old, os.fdopen(os.dup(descriptor), "wb") as new:
                old.seek(length)
                shutil.copyfileobj(old, new, 1 << 20)
                new.flush()
                os.fsync(new.fileno())
            fresh.replace(self.path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._file)
        self._file = descriptor
        os.lseek(descriptor, 0, os.SEEK_END)

    def _refused(self, what: str) -> StartupError:
        return StartupError(
            f"{self.path}: the audit mirror does not match the store: {what}. Nothing was changed. Run "
            "`kubegate audit verify`; when the store is intact, move the mirror aside and it is written anew"
        )

    def catch_up(self, events: Iterable[bytes]) -> int:
        """Writes the records that follow the last whole line; returns how many.

        Raises:
            OSError: the file cannot be written, or another program has changed or replaced it; ``size`` tells
                how far it got.
        """
        if self._torn:
            os.ftruncate(self._file, self._length)
            os.lseek(self._file, self._length, os.SEEK_SET)
        else:
            self._check_ours()
        self._torn = True
        before, chunk, held = self.size, bytearray(), 0
        for event in events:
            chunk += event + b"\n"
            held += 1
            if len(chunk) >= 1 << 20:
                self._write(chunk, held)
                chunk, held = bytearray(), 0
        self._write(chunk, held)
        self._torn = False
        return self.size - before

    def _check_ours(self) -> None:
        ours, there = os.fstat(self._file), self.path.stat()
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino) or ours.st_size != self._length:
            raise OSError(errno.ESTALE, "changed or replaced by another program, restart audit")

    def _write(self, chunk: bytearray, events: int) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file, view) :]
        self._took(events, len(chunk))

    def _took(self, events: int, length: int) -> None:
        self.size += events
        self._length += length

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)
