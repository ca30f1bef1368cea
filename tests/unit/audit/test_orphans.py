"""Intents without outcomes are reported once their deadline and a grace have passed (R21)."""

from datetime import timedelta
from pathlib import Path

import pytest

from services.audit.adapters.sqlite_reads import SqliteReads
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.orphans import GRACE, OrphanWatch
from services.audit.ports import Draft
from services.audit.writers import CORE
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
    clock.advance(5 + GRACE.total_seconds())
    assert await watch.look() == []
    clock.advance(1)
    (orphan,) = await watch.look()
    assert (orphan.event_id, orphan.user, orphan.sequence) == (lost.event_id, "bob", 1)
    assert await watch.look() == [], "reported once"
    store.close()
