"""The record that checks itself: finds what is changed in the store of a running service, and says nothing else."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.audit import self_check
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.self_check import SelfCheck
from services.common.telemetry.metrics import AUDIT_CHECKED, AUDIT_CHECKS, AUDIT_INTACT
from tests.fakes.clock import FakeClock
from tests.unit.audit.support import draft, signer


def count(result: str) -> float:
    return float(AUDIT_CHECKS.labels(result)._value.get())


class Rig:
    """A log over SQLite, its self-check, and a second hand on the file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit.db"
        self.store = SqliteStore(self.path, signer())
        self.log = GroupCommitLog(self.store, Mirror(directory / "audit.log", self.store.events()), queue_limit=4096)
        self.check = SelfCheck(self.log, self.store.keys, FakeClock())

    async def fill(self, events: int) -> None:
        await self.log.append_all([draft(user=f"u{number}") for number in range(events)])

    def alter(self, statement: str) -> None:
        """What somebody does who can write the file."""
        with sqlite3.connect(self.path) as connection:
            assert connection.execute(statement).rowcount > 0
        connection.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.log.stop()


@pytest.mark.req("I9.17")
async def test_an_empty_and_a_growing_record_are_intact(rig: Rig) -> None:
    before = count("intact")
    await rig.check.look()
    for events in (1, 2, 255, 300, 700):
        await rig.fill(events)
        await rig.check.look()
        await rig.check.look()
    assert count("intact") - before == 11
    assert rig.check.notices() == []
    size, root = rig.log.checkpoint.splitlines()[1:3]
    assert (size, rig.check.head()) == ("1258", f"1258 {root[:12]}"), "as the file of the checkpoint has it"
    assert AUDIT_INTACT._value.get() == 1
    assert AUDIT_CHECKED._value.get() > 0


@pytest.mark.req("I9.17")
@pytest.mark.parametrize("sequence", [0, 700, 1400])
async def test_an_altered_event_is_found_wherever_it_lies(
    rig: Rig, sequence: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "WINDOW", 200)
    await rig.fill(1500)
    await rig.check.look()
    assert rig.check.notices() == []
    other = f"CAST(replace(CAST(event AS TEXT), '\"u{sequence}\"', '\"nobody\"') AS BLOB)"
    rig.alter(f"UPDATE events SET event = {other} WHERE sequence = {sequence}")
    # A window of 200 has wandered through all 1500 after eight looks.
    for _ in range(9):
        if rig.check.notices():
            break
        await rig.check.look()
    [notice] = rig.check.notices()
    assert f"event {sequence} is not what was signed" in notice
    assert "kubegate audit verify" in notice
    assert AUDIT_INTACT._value.get() == 0


@pytest.mark.req("I9.17")
async def test_a_missing_event_is_found(rig: Rig) -> None:
    await rig.fill(40)
    rig.alter("DELETE FROM events WHERE sequence = 17")
    await rig.check.look()
    assert "event 17 is missing" in rig.check.notices()[0]


@pytest.mark.req("I9.17")
async def test_a_root_that_does_not_extend_the_one_before_is_found(rig: Rig) -> None:
    await rig.fill(10)
    await rig.check.look()
    before = rig.check._before
    assert before is not None
    rig.check._before = type(before)(before.origin, before.size, bytes(32))
    await rig.fill(1)
    await rig.check.look()
    assert "are not those of an earlier signed root" in rig.check.notices()[0]


@pytest.mark.req("I9.17")
async def test_a_store_that_cannot_be_read_is_not_called_altered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.fill(3)

    async def broken(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(rig.log, "page", broken)
    before, checked = count("not_checked"), AUDIT_CHECKED._value.get()
    await rig.check.look()
    assert count("not_checked") == before + 1
    assert rig.check.notices() == []
    # The time of the last check that came to an end stays, for the alert on its age.
    assert AUDIT_CHECKED._value.get() == checked
