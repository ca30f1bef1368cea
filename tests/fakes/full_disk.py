"""A log whose disk runs full, while it writes, when it stops and when it starts: ``python -m tests.fakes.full_disk``.

Runs in a process of its own, for the small filesystem is mounted in a mount namespace that ends with it, and so that
the limit of a file's size ends nobody else's writing. Prints a JSON summary.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from services.audit import canonical
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.publisher import Publisher, check_not_behind
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.verify import verify_store
from services.common.errors import Unavailable
from services.common.runtime_errors import StartupError
from tests.unit.audit.support import draft, signer

CANNOT_MOUNT = 77
"""Exit code where this user may not mount anything."""

_BALLAST = 512 * 1024
_MOUNTS = {
    "ext4": 'truncate -s 4M "$1.img" && mkfs.ext4 -q -b 4096 -m 0 -O ^has_journal "$1.img" '
    '&& mount -o loop "$1.img" "$1"',
    "tmpfs": 'mount -t tmpfs -o size=2m tmpfs "$1"',
}


class Room(Protocol):
    """Room on the disk that can be taken and given back."""

    def take(self) -> None:
        """From now on not one more page fits."""
        ...

    def give(self) -> None:
        """There is room again."""
        ...


class Ballast:
    """A file that holds half a MiB, nothing, or all that is left of the filesystem."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "ballast"
        self._file.write_bytes(bytes(_BALLAST))

    def take(self) -> None:
        with self._file.open("ab", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def give(self) -> None:
        self._file.unlink()


class Limit:
    """No file may grow beyond a size: what stands for a quota where nothing may be mounted."""

    def __init__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        self._set(256 * 1024)

    def take(self) -> None:
        self._set(1)

    def give(self) -> None:
        self._set(resource.getrlimit(resource.RLIMIT_FSIZE)[1])

    def _set(self, soft: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Log:
    """Store, mirror and published checkpoint in one directory, as the service's wiring has them."""

    def __init__(self, directory: Path) -> None:
        self.store = SqliteStore(directory / "audit.db", signer())
        try:
            check_not_behind(self.store, directory / "checkpoint", ())
            self.mirror = Mirror(directory / "audit.log", self.store.events())
        except BaseException:
            self.store.close()
            raise
        self.log = GroupCommitLog(self.store, self.mirror, queue_limit=64)
        self.publisher = Publisher(directory / "checkpoint", self.log)

    async def append(self) -> str:
        """The id of an event that was acknowledged."""
        return (await self.log.append(draft(error_message="x" * 4000))).event_id

    async def stop(self) -> None:
        await self.log.stop()
        await self.publisher.publish()


async def scenario(directory: Path, room: Room) -> dict[str, Any]:
    """What was acknowledged and said, and what is there in the end."""
    acknowledged: list[str] = []
    log = Log(directory)
    while True:
        try:
            acknowledged.append(await log.append())
            await log.publisher.publish()
        except Unavailable:
            break
    while_full = log.log.problems()
    room.give()
    for _ in range(3):
        acknowledged.append(await log.append())
    await log.publisher.publish()
    healed = [*log.log.problems(), *log.publisher.problems()]
    room.take()
    refused = 0
    for _ in range(200):
        try:
            acknowledged.append(await log.append())
        except Unavailable:
            refused += 1
            if refused == 3:
                break
    await log.stop()
    starts = await _start(directory, acknowledged)
    room.give()
    log = Log(directory)
    acknowledged.append(await log.append())
    await log.stop()
    report = verify_store(directory / "audit.db", signer().verifier, directory / "audit.log")
    store = SqliteStore(directory / "audit.db", signer(), may_create=False)
    stored = [canonical.decode(each)["event_id"] for each in store.events()]
    store.close()
    return {
        "acknowledged": len(acknowledged),
        "in_order": [each for each in stored if each in set(acknowledged)] == acknowledged,
        "while_full": while_full,
        "healed": healed,
        "refused_again": refused,
        "start_while_full": starts,
        "intact": report.events == len(stored),
    }


async def _start(directory: Path, acknowledged: list[str]) -> str:
    """What a start on a full disk says; empty where it serves."""
    try:
        log = Log(directory)
    except StartupError as error:
        return str(error)
    try:
        acknowledged.append(await log.append())
    except Unavailable:
        pass
    await log.stop()
    return ""


def in_small_filesystem(kind: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs the scenario on a filesystem of its own: "ext4" in a loop device, "tmpfs", or "limit" without one."""
    directory.mkdir()
    command = [sys.executable, "-m", "tests.fakes.full_disk", kind, str(directory)]
    if kind in _MOUNTS:
        # Whatever is mounted, and the loop device with it, goes with the namespace.
        as_root = ["--user", "--map-root-user"] if os.getuid() else []
        script = f'{{ {_MOUNTS[kind]}; }} >&2 || exit {CANNOT_MOUNT}; shift; exec "$@"'
        command = ["unshare", "--mount", *as_root, "sh", "-c", script, "sh", str(directory), *command]
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "PATH": path}
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, CANNOT_MOUNT, "", str(error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=(*_MOUNTS, "limit"))
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    make: Callable[[], Room] = Limit if options.kind == "limit" else lambda: Ballast(options.directory)
    print(json.dumps(asyncio.run(scenario(options.directory, make()))))


if __name__ == "__main__":
    main()
