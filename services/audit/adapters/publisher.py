"""Publishes the newest signed tree head as a file, every second and at shutdown, and at start refuses a store that
is behind what was published or witnessed (R23).

A tree head is published after its commit, so that no crash can make the file newer than the store.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from services.audit.adapters.engine import Store
from services.audit.checkpoint import BadCheckpoint, BadKey, Checkpoint
from services.audit.config import Witness
from services.audit.ports import Log
from services.audit.witness import WitnessVerifier
from services.common.log import get_logger
from services.common.runtime_errors import ConfigError, StartupError

PERIOD = 1.0
"""Seconds between two looks at the log."""

log = get_logger("audit.checkpoints")


class Publisher:
    """Keeps the file in step with the log."""

    def __init__(self, path: Path, source: Log) -> None:
        self._path, self._source = path, source
        self._published = ""
        self._problem = ""

    def problems(self) -> list[str]:
        """Why the newest tree head is not published; empty when it is."""
        return [self._problem] if self._problem else []

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            await self.publish()
            await asyncio.sleep(PERIOD)

    async def publish(self) -> None:
        """Writes the file where there is something new. A failure is a problem of the service, not its end."""
        note = self._source.checkpoint
        if note == self._published:
            return
        try:
            await asyncio.to_thread(place, self._path, note)
        except OSError as error:
            self._problem = f"checkpoint {self._path} cannot be written: {error.strerror}"
            log.error("checkpoint not published", reason=str(error))
        else:
            self._published, self._problem = note, ""


def place(path: Path, text: str) -> None:
    """Puts a text in place of a file, whole or not at all, durable on return."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def published(path: Path) -> bool:
    """Whether a tree head was ever published there."""
    return path.exists() and path.stat().st_size > 0


def check_not_behind(store: Store, checkpoint: Path, witnesses: Sequence[Witness]) -> None:
    """Compares the store with what others have seen of it.

    Raises:
        StartupError: it is behind, or another history; or a file does not belong to this log.
        ConfigError: a witness's key is not one.
    """
    if published(checkpoint):
        _check(store, checkpoint, _open(store, checkpoint, _read(checkpoint)))
    for witness in witnesses:
        try:
            verifier = WitnessVerifier.from_vkey(witness.key)
        except BadKey as error:
            raise ConfigError(witness.file, [f"witnesses: {error}"]) from error
        if not published(witness.file):
            log.warning("a witness has seen nothing yet", file=str(witness.file))
            continue
        note = _read(witness.file)
        try:
            verifier.open(note)
        except BadCheckpoint as error:
            raise StartupError(f"{witness.file}: {error}; is it the file that this witness writes?") from error
        _check(store, witness.file, _open(store, witness.file, note))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{path}: the checkpoint cannot be read") from error


def _open(store: Store, path: Path, note: str) -> Checkpoint:
    try:
        return store.keys.open_any(note)
    except BadCheckpoint as error:
        raise StartupError(
            f"{path}: not a checkpoint of the log in {store.name}: {error}. Restore the store that it belongs to; to "
            "begin a new log, move the checkpoint and the mirror aside"
        ) from error


def _check(store: Store, path: Path, seen: Checkpoint) -> None:
    if seen.size > store.size:
        raise StartupError(
            f"{store.name}: the audit store holds {store.size} events, but {path} is a signed checkpoint over "
            f"{seen.size}: what came last was cut off. Nothing was changed. Restore the newest backup of the store"
        )
    if store.root(seen.size) != seen.root:
        raise StartupError(
            f"{store.name}: the audit store is another history than the one in {path}, a signed checkpoint over "
            f"{seen.size} events. Nothing was changed. Keep both files: they are evidence"
        )
