"""Rounds of writing and SIGKILL over a disk that loses what was not fsynced: ``python -m tests.fakes.crash_rounds``.

A child writes through the same group commit, mirror and published checkpoint as production and tells each
acknowledgement through a pipe; the parent kills it at a random moment and looks at what is left. Prints a JSON
summary and exits with 1 where an acknowledged event is gone or the log does not verify.
"""

import argparse
import asyncio
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from services.audit import canonical
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.publisher import check_not_behind, place
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.ports import Ack, Capacity, Draft
from services.audit.verify import Altered, Unreadable, verify_store
from services.audit.writers import CORE
from services.common.runtime_errors import StartupError
from tests.fakes.losing_disk import LosingDisk
from tests.unit.audit.support import draft, intent, signer


async def _write(directory: Path, acknowledged: int, synchronous: str) -> None:
    """Appends until it is killed."""
    disk = LosingDisk()
    store = SqliteStore(directory / "audit.db", signer(), connect=disk.connect(synchronous=synchronous))
    mirror = Mirror(directory / "audit.log", store.events())
    log = GroupCommitLog(store, mirror, queue_limit=256)

    async def one(number: int) -> None:
        ack = await log.append(draft(user=f"user-{number}", error_message="x" * (number % 7) * 300))
        os.write(acknowledged, f"{ack.event_id}\n".encode())

    async def many(number: int) -> None:
        drafts = [draft(user="batch"), Draft(intent().fields(CORE), Capacity.RESERVED), *(draft() for _ in range(5))]
        acks = [ack.event_id for ack in await log.append_all(drafts) if isinstance(ack, Ack)]
        os.write(acknowledged, "".join(f"{each}\n" for each in acks).encode())
        place(directory / "checkpoint", log.checkpoint)

    number = 0
    while True:
        await asyncio.gather(*(one(number + n) for n in range(3)), many(number))
        number += 3


def _round(directory: Path, wait: float, synchronous: str) -> list[str]:
    """Runs and kills one writer; the ids that it was told are durable."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        # Whatever goes wrong in here, the parent's frames must not run on in the child.
        try:
            asyncio.run(_write(directory, sending, synchronous))
        finally:
            os._exit(70)
    os.close(sending)
    select.select([receiving], [], [], 10)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(receiving) as lines:
        return [line.strip() for line in lines if line.endswith("\n")]


def _lost(directory: Path, acknowledged: set[str]) -> list[str]:
    """What is wrong with what the kill left, as a start and an offline verification find it."""
    problems: list[str] = []
    try:
        verify_store(directory / "audit.db", signer().verifier, directory / "audit.log")
        store = SqliteStore(directory / "audit.db", signer(), may_create=False)
    except (Altered, Unreadable, StartupError) as error:
        return [str(error)]
    try:
        check_not_behind(store, directory / "checkpoint", ())
        Mirror(directory / "audit.log", store.events()).close()
        stored = [canonical.decode(event)["event_id"] for event in store.events()]
        missing = acknowledged - set(stored)
        if missing:
            problems.append(f"{len(missing)} acknowledged events are gone")
        if len(stored) != len(set(stored)):
            problems.append("an event is stored twice")
        problems += [str(e) for e in _verify_after_start(directory)]
    except StartupError as error:
        problems.append(str(error))
    finally:
        store.close()
    return problems


def _verify_after_start(directory: Path) -> list[Exception]:
    try:
        verify_store(directory / "audit.db", signer().verifier, directory / "audit.log")
    except (Altered, Unreadable) as error:
        return [error]
    return []


def rounds(count: int, seed: int, synchronous: str, per_store: int = 20) -> tuple[int, list[str]]:
    """Acknowledged events and problems of so many rounds; a fresh store every few of them."""
    chance = random.Random(seed)
    total, problems = 0, list[str]()
    for begin in range(0, count, per_store):
        directory = Path(tempfile.mkdtemp(prefix="kubegate-crash-"))
        # Made on a sound disk, so that what is missing later was missing from a commit.
        SqliteStore(directory / "audit.db", signer()).close()
        acknowledged: set[str] = set()
        for _ in range(min(per_store, count - begin)):
            acknowledged.update(_round(directory, chance.uniform(0, 0.03), synchronous))
            if found := _lost(directory, acknowledged):
                problems += found
                break
        total += len(acknowledged)
        shutil.rmtree(directory)
    return total, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synchronous", default="FULL", choices=("FULL", "NORMAL", "OFF"))
    options = parser.parse_args()
    acknowledged, problems = rounds(options.rounds, options.seed, options.synchronous)
    print(json.dumps({"rounds": options.rounds, "acknowledged": acknowledged, "problems": problems}))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
