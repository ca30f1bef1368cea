"""Intents without outcomes are reported once their deadline and a grace have passed (R21)."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from services.audit import orphans
from services.audit.adapters.sqlite_reads import SqliteReads
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.orphans import OrphanWatch
from services.audit.ports import Draft, Orphan
from services.audit.writers import CORE
from services.common.deadline import OUTCOME_GRACE
from tests.fakes.clock import FakeClock
from tests.unit.audit.support import NOW, intent, outcome, signer


@pytest.mark.req("R21")
async def test_an_intent_is_an_orphan_only_after_its_deadline_and_a_grace(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "audit.db", signer())
    done, lost = intent(), intent(user="bob", deadline=NOW + timedelta(seconds=5))
    store.commit([Draft(item.fields(CORE)) for item in (done, lost, outcome(done.event_id))])
    # Another writer's event is nobody's outcome.
    store.commit([Draft(outcome(lost.event_id).fields("platform/evil"))])
    clock = FakeClock()
    watch = OrphanWatch(SqliteReads(store.path), clock)
    clock.advance(5 + OUTCOME_GRACE.total_seconds())
    assert await watch.look() == ()
    clock.advance(1)
    (orphan,) = await watch.look()
    assert (orphan.event_id, orphan.user, orphan.sequence) == (lost.event_id, "bob", 1)
    assert await watch.look() == (), "reported once"
    store.close()


class Counted(SqliteReads):
    """Counts the records that it was asked to look at."""

    opened = 0

    def unfinished(self, after: Mapping[str, int]) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        found, looked = super().unfinished(after)
        self.opened += looked.get("", 0) - after.get("", 0)
        return found, looked


@pytest.mark.req("R21", "R27")
async def test_no_record_is_looked_at_twice_and_only_what_is_open_is_remembered(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "audit.db", signer())
    clock, reads = FakeClock(), Counted(store.path)
    watch = OrphanWatch(reads, clock)
    begun = [intent() for _ in range(5)]
    store.commit([Draft(item.fields(CORE)) for item in begun])
    assert await watch.look() == ()
    store.commit([Draft(outcome(each.event_id).fields(CORE)) for each in begun[1:]])
    clock.advance(10 + OUTCOME_GRACE.total_seconds() + 1)
    assert [each.event_id for each in await watch.look()] == [begun[0].event_id]
    for _ in range(3):
        assert await watch.look() == ()
    assert reads.opened == 9
    assert not watch._open
    reads.close()
    store.close()


class Failing:
    """Fails at the first look."""

    def __init__(self) -> None:
        self.looks = 0

    def unfinished(self, after: Mapping[str, int]) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        self.looks += 1
        if self.looks == 1:
            raise sqlite3.OperationalError("disk I/O error")
        return (), after

    def without_outcome(self, intents: Sequence[Orphan]) -> Sequence[Orphan]:
        return intents


async def test_a_look_that_fails_does_not_end_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "PERIOD", 0)
    intents = Failing()
    task = asyncio.create_task(OrphanWatch(intents, FakeClock()).run())
    while intents.looks < 3:
        await asyncio.sleep(0)
        assert not task.done()
    task.cancel()
