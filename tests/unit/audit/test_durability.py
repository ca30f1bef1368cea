"""Nothing acknowledged is lost: power failures, torn writes, failed syncs, a full disk, a clock that goes back."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from services.audit import canonical
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.ports import Ack, Draft
from services.audit.verify import verify_store
from services.common.errors import Unavailable
from services.common.runtime_errors import StartupError
from tests.fakes.full_disk import CANNOT_MOUNT, in_small_filesystem
from tests.fakes.losing_disk import LosingDisk
from tests.unit.audit.support import NOW, draft, event, signer

ROOT = Path(__file__).parents[3]


def crash_rounds(*arguments: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.crash_rounds", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.req("R24", "I4.8")
def test_nothing_acknowledged_is_lost_when_a_writer_is_killed_at_random_moments() -> None:
    code, found = crash_rounds("--rounds", "200")
    assert (code, found["problems"]) == (0, [])
    assert int(str(found["acknowledged"])) > 2000


@pytest.mark.req("R24", "I4.8")
@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_the_same_rounds_fail_when_fsync_is_switched_off(synchronous: str) -> None:
    code, found = crash_rounds("--rounds", "20", "--synchronous", synchronous)
    assert code == 1
    assert "not in the store" in str(found["problems"]) or "are gone" in str(found["problems"])


def _until_dead(path: Path, disk: LosingDisk) -> list[str]:
    """Writes until the disk dies, or a while; the ids that were acknowledged before."""
    acknowledged: list[str] = []
    try:
        store = SqliteStore(path, signer(), connect=disk.connect())
    except Exception:  # the disk died in the middle of the start
        if not disk.dead:
            raise
        return []
    for number in range(12):
        drafts = [draft(error_message="x" * 997 * (number % 5)) for _ in range(1 + number % 3)]
        answers = store.commit(drafts).answers
        if disk.dead:
            break
        acknowledged += [answer.event_id for answer in answers if isinstance(answer, Ack)]
    store.close()
    return acknowledged


def _first_operation_after_creation(tmp_path: Path) -> tuple[int, int]:
    """Operations that creating a store takes, and those of the whole writing."""
    disk = LosingDisk()
    SqliteStore(tmp_path / "measure.db", signer(), connect=disk.connect()).close()
    whole = LosingDisk()
    _until_dead(tmp_path / "whole.db", whole)
    return disk.operations, whole.operations


@pytest.mark.req("R24", "I4.8")
@pytest.mark.parametrize("seed", range(2))
def test_a_power_failure_at_any_write_leaves_every_acknowledged_event_and_a_tree_that_verifies(
    tmp_path: Path, seed: int
) -> None:
    """Torn and reordered: any part of what was not synced may have reached the disk."""
    _, operations = _first_operation_after_creation(tmp_path)
    assert operations > 100
    for at in range(1, operations + 1):
        path = tmp_path / f"{seed}-{at}.db"
        acknowledged = _until_dead(path, LosingDisk(die_at=at, seed=seed * 1000 + at))
        if path.stat().st_size == 0 or not acknowledged:
            continue
        verify_store(path, signer().verifier)
        store = SqliteStore(path, signer(), may_create=False)
        stored = [canonical.decode(each)["event_id"] for each in store.events()]
        assert stored[: len(acknowledged)] == acknowledged, f"died at operation {at}"
        store.commit([draft()])
        store.close()
        verify_store(path, signer().verifier)


@pytest.mark.req("R24", "I4.8")
@pytest.mark.parametrize("persisted", [False, True])
async def test_a_failed_sync_is_no_acknowledgement_and_heals_whether_it_persisted_or_not(
    tmp_path: Path, persisted: bool
) -> None:
    """The fault pairs: failed and not persisted, failed but persisted."""
    disk = LosingDisk()
    disk.persist_failed = persisted
    store = SqliteStore(tmp_path / "audit.db", signer(), connect=disk.connect())
    log = GroupCommitLog(store, Mirror(tmp_path / "audit.log", store.events()), queue_limit=64)
    await log.append(draft())
    failed, disk.fail_sync = draft(), lambda: True
    with pytest.raises(Unavailable):
        await log.append(failed)
    assert log.problems()
    disk.fail_sync = lambda: False
    # Asked again under its id it is stored once, whatever became of it.
    assert (await log.append(failed)).sequence == 1
    assert (await log.append(draft())).sequence == 2
    assert log.problems() == []
    await log.stop()
    assert verify_store(tmp_path / "audit.db", signer().verifier, tmp_path / "audit.log").events == 3


@pytest.mark.req("R24", "I4.8")
async def test_a_full_disk_refuses_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = LosingDisk()
    store = SqliteStore(tmp_path / "audit.db", signer(), connect=disk.connect())
    log = GroupCommitLog(store, Mirror(tmp_path / "audit.log", store.events()), queue_limit=64)
    stored = [(await log.append(draft())).event_id]
    disk.capacity = sum(len(file.seen) for file in disk.files.values()) + 40_000

    async def fill_up() -> None:
        while True:
            stored.append((await log.append(draft(error_message="x" * 4000))).event_id)

    with pytest.raises(Unavailable):
        await fill_up()
    assert any("full" in problem for problem in log.problems())
    disk.capacity = None
    stored.append((await log.append(draft())).event_id)
    assert log.problems() == []
    await log.stop()
    events = [canonical.decode(line)["event_id"] for line in (tmp_path / "audit.log").read_bytes().splitlines()]
    # What was refused may have been persisted all the same; what was acknowledged is there, in order.
    assert [event for event in events if event in stored] == stored
    assert verify_store(tmp_path / "audit.db", signer().verifier, tmp_path / "audit.log").events == len(events)


@pytest.mark.req("R24", "I4.8")
@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "limit"])
def test_a_small_filesystem_that_runs_full_loses_nothing_and_is_not_called_damaged(tmp_path: Path, kind: str) -> None:
    """While it writes, when it stops and when it starts; the store is whole once there is room again."""
    done = in_small_filesystem(kind, tmp_path / "small")
    if done.returncode == CANNOT_MOUNT:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["acknowledged"] > 4
    assert found["in_order"]
    assert found["intact"]
    (problem,) = found["while_full"]
    assert "cannot be written" in problem
    assert found["healed"] == []
    assert found["refused_again"] == 3
    assert "has room" in found["start_while_full"] or "make room" in found["start_while_full"]
    assert "backup" not in found["start_while_full"]


@pytest.mark.req("I4.8", "I2.11")
def test_a_mirror_without_room_is_a_start_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    store = SqliteStore(tmp_path / "audit.db", signer())
    store.commit([draft()])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StartupError, match="No space left on device; make room"):
            Mirror(tmp_path / "audit.log", store.events())
    Mirror(tmp_path / "audit.log", store.events()).close()
    store.close()
    assert verify_store(tmp_path / "audit.db", signer().verifier, tmp_path / "audit.log").events == 1


@pytest.mark.req("I4.8")
def test_a_clock_that_goes_back_changes_nothing_about_order_and_proof(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "audit.db", signer())
    moments = [NOW, NOW - timedelta(days=400), NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)]
    for moment in moments:
        store.commit([Draft(event(timestamp=moment).fields("service/mcp-core"))])
    reads = store.reads()
    assert [json.loads(each)["sequence"] for each in store.events()] == [0, 1, 2, 3]
    assert reads.bounds() == "4"
    reads.close()
    store.close()
    assert verify_store(tmp_path / "audit.db", signer().verifier).events == 4
    SqliteStore(tmp_path / "audit.db", signer()).close()


@pytest.mark.req("R23", "I4.7")
def test_whoever_opened_the_store_last_owns_it_though_the_file_lock_was_circumvented(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "audit.db", signer())
    first.commit([draft()])
    (tmp_path / "audit.db.lock").unlink()
    second = SqliteStore(tmp_path / "audit.db", signer())
    for work in (lambda: first.commit([draft()]), first.recover):
        with pytest.raises(Exception, match="taken over"):
            work()
    first._connection.close()
    assert isinstance(second.commit([draft()]).answers[0], Ack)
    second.close()
    assert verify_store(tmp_path / "audit.db", signer().verifier).events == 2
    with pytest.raises(sqlite3.ProgrammingError):
        first.commit([])


@pytest.mark.req("I4.2")
async def test_back_pressure_names_when_to_come_back_and_drops_nothing_in_silence(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "audit.db", signer())
    log = GroupCommitLog(store, Mirror(tmp_path / "audit.log", store.events()), queue_limit=16)
    drafts = [draft() for _ in range(40)]
    answers = await log.append_all(drafts)
    taken = [answer for answer in answers if isinstance(answer, Ack)]
    refused = [answer for answer in answers if not isinstance(answer, Ack)]
    assert len(taken) == 12, "a quarter is kept for intents and outcomes"
    assert {(error.code.name, bool(error.retry_after)) for error in refused} == {("RESOURCE_EXHAUSTED", True)}
    again = await log.append_all(drafts[12:24])
    assert [answer.sequence for answer in again if isinstance(answer, Ack)] == list(range(12, 24))
    await log.stop()


def test_reading_while_writing_needs_no_pause(tmp_path: Path) -> None:
    """A reader's snapshot neither blocks a commit nor sees half of one."""

    async def work() -> None:
        store = SqliteStore(tmp_path / "audit.db", signer())
        log = GroupCommitLog(store, Mirror(tmp_path / "audit.log", store.events()), queue_limit=64)
        bounds = await log.bounds()
        await asyncio.gather(*(log.append(draft()) for _ in range(10)))
        assert (bounds, await log.bounds()) == ("0", "10")
        await log.stop()

    asyncio.run(work())
