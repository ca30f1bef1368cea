"""Group commit: one transaction for all that waits, reserved capacity, honest failures, healing."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from services.audit import canonical
from services.audit.adapters import group_commit
from services.audit.adapters.batch import Committed
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.ports import Ack, Capacity, Draft
from services.audit.writers import CORE
from services.common.errors import AlreadyExists, ResourceExhausted, Unavailable
from tests.unit.audit.support import draft, intent, signer


class GatedStore(SqliteStore):
    """Commits when the gate is open; remembers what each commit held; can fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, signer())
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.commits: list[list[str]] = []
        self.failing = False

    def commit(self, drafts: Sequence[Draft]) -> Committed:
        self.entered.set()
        self.gate.wait()
        if drafts:
            self.commits.append([item.fields["user"] for item in drafts])
        if self.failing:
            raise sqlite3.OperationalError("database or disk is full")
        return super().commit(drafts)


class Rig:
    def __init__(self, directory: Path, queue_limit: int = 16) -> None:
        self.store = GatedStore(directory / "audit.db")
        self.mirror_path = directory / "audit.log"
        self.mirror = Mirror(self.mirror_path, self.store.events())
        self.log = GroupCommitLog(self.store, self.mirror, queue_limit=queue_limit)

    async def hold(self) -> "asyncio.Task[Ack]":
        """Lets one event into a commit that does not end until the gate opens."""
        self.store.gate.clear()
        self.store.entered.clear()
        task = asyncio.create_task(self.log.append(draft(user="held")))
        await asyncio.to_thread(self.store.entered.wait)
        return task

    async def queue(self, *drafts: Draft) -> "list[asyncio.Task[Ack]]":
        tasks = [asyncio.create_task(self.log.append(item)) for item in drafts]
        await asyncio.sleep(0)
        return tasks


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.store.gate.set()
    await rig.log.stop()


def reserved(user: str) -> Draft:
    return Draft(intent(user=user).fields(CORE), Capacity.RESERVED)


@pytest.mark.req("I2.5")
async def test_what_waits_during_a_commit_shares_the_next_one(rig: Rig) -> None:
    held = await rig.hold()
    tasks = await rig.queue(*(draft(user=f"u{n}") for n in range(5)))
    rig.store.gate.set()
    acks = await asyncio.gather(held, *tasks)
    assert rig.store.commits == [["held"], ["u0", "u1", "u2", "u3", "u4"]]
    assert [ack.sequence for ack in acks] == [0, 1, 2, 3, 4, 5]
    assert rig.log.size == 6
    assert signer().verifier.open(rig.log.checkpoint).size == 6


@pytest.mark.req("I2.5")
async def test_an_append_is_acknowledged_only_after_its_commit_and_is_then_in_the_mirror(rig: Rig) -> None:
    held = await rig.hold()
    await asyncio.sleep(0)
    assert not held.done()
    assert rig.log.size == 0
    rig.store.gate.set()
    await held
    (line,) = rig.mirror_path.read_bytes().splitlines(keepends=True)
    assert canonical.decode(line[:-1])["user"] == "held"


@pytest.mark.req("R25")
async def test_a_flood_cannot_take_the_capacity_of_intents_and_outcomes(rig: Rig) -> None:
    held = await rig.hold()
    flood = await rig.queue(*(draft(user="flood") for _ in range(30)))
    refused = [task for task in flood if task.done()]
    assert len(refused) == 30 - (16 - 16 // 4 - 1)
    with pytest.raises(ResourceExhausted) as error:
        await refused[0]
    assert error.value.retry_after
    mutation = await rig.queue(reserved("mutation"))
    rig.store.gate.set()
    assert (await mutation[0]).sequence == 1, "first in the commit, whatever waited longer"
    results = await asyncio.gather(held, *flood, return_exceptions=True)
    assert sum(isinstance(result, Ack) for result in results) == 12
    assert isinstance(await rig.log.append(draft()), Ack), "capacity comes back"


@pytest.mark.req("R25")
async def test_a_flood_of_platform_services_leaves_room_for_the_gates_own(rig: Rig) -> None:
    held = await rig.hold()
    flood = await rig.queue(*(Draft(draft(user="flood").fields, Capacity.GUEST) for _ in range(30)))
    assert sum(task.done() for task in flood) == 30 - (16 // 2 - 1)
    services = await rig.queue(*(draft(user="authn") for _ in range(4)))
    rig.store.gate.set()
    assert all(isinstance(each, Ack) for each in await asyncio.gather(held, *services))
    await asyncio.gather(*flood, return_exceptions=True)


async def test_even_intents_are_bounded(rig: Rig) -> None:
    await rig.hold()
    tasks = await rig.queue(*(reserved("m") for _ in range(20)))
    assert sum(task.done() for task in tasks) == 5
    rig.store.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.req("I2.6", "I2.5")
async def test_a_failed_commit_acknowledges_nothing_and_heals(rig: Rig) -> None:
    rig.store.failing = True
    first = draft(user="a")
    with pytest.raises(Unavailable):
        await rig.log.append(first)
    assert rig.log.problems()
    assert rig.log.size == 0
    rig.store.failing = False
    assert (await rig.log.append(first)).sequence == 0
    assert rig.log.problems() == []


class FullDisk:
    """A logger whose lines go nowhere."""

    def error(self, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.req("I2.6")
async def test_it_answers_and_heals_though_its_own_log_cannot_be_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "log", FullDisk())
    rig.store.failing = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await rig.log.append(draft())
    rig.store.failing = False

    def full(chunk: bytearray, events: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rig.mirror, "_write", full)
        assert (await rig.log.append(draft())).sequence == 0
    assert (await rig.log.append(draft())).sequence == 1
    assert rig.log.problems() == []


async def test_whatever_breaks_between_two_commits_ends_neither_the_thread_nor_the_service(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(lines: Sequence[bytes]) -> None:
        raise RuntimeError("nobody thought of this")

    first = draft()
    with monkeypatch.context() as patch:
        patch.setattr(rig.log, "_write_mirror", broken)
        with pytest.raises(Unavailable):
            await rig.log.append(first)
    assert (await rig.log.append(first)).sequence == 0, "it was stored, and is asked for again"
    assert rig.log.problems() == []
    assert len(rig.mirror_path.read_bytes().splitlines()) == 1


@pytest.mark.req("I2.6")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_writer_thread_is_a_problem_of_the_service(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(drafts: Sequence[Draft]) -> Committed:
        raise SystemExit

    monkeypatch.setattr(rig.store, "commit", end)
    (waiting,) = await rig.queue(draft())
    while rig.log._thread.is_alive():
        await asyncio.sleep(0.01)
    assert "restart audit" in rig.log.problems()[0]
    waiting.cancel()


async def test_a_full_mirror_never_costs_an_event_and_is_caught_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(chunk: bytearray, events: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(rig.mirror, "_write", full)
        assert (await rig.log.append(draft())).sequence == 0
        (problem,) = rig.log.problems()
        assert "No space left on device" in problem
    await rig.log.append(draft())
    assert rig.log.problems() == []
    assert len(rig.mirror_path.read_bytes().splitlines()) == 2


async def test_an_answer_that_nobody_waits_for_does_no_harm(rig: Rig) -> None:
    held = await rig.hold()
    held.cancel()
    waiting = await rig.queue(draft(user="b"))
    rig.store.gate.set()
    assert (await waiting[0]).sequence == 1


async def test_errors_of_one_event_are_its_own(rig: Rig) -> None:
    first = draft(user="a")
    await rig.log.append(first)
    other, fine = await rig.queue(Draft({**first.fields, "user": "b"}), draft())
    with pytest.raises(AlreadyExists):
        await other
    assert (await fine).sequence == 1


async def test_growth_wakes_those_who_wait_for_it(rig: Rig) -> None:
    waiting = asyncio.create_task(rig.log.grown(1))
    await rig.log.append(draft())
    assert not waiting.done()
    await rig.log.append(draft())
    await waiting


async def test_stopping_commits_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    held = await rig.hold()
    waiting = await rig.queue(draft())
    stopping = asyncio.create_task(rig.log.stop())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await rig.log.append(draft())
    rig.store.gate.set()
    await stopping
    assert [(await task).sequence for task in (held, *waiting)] == [0, 1]
