"""Several audit services in one PostgreSQL database: fenced, read as one, one outcome over all; and its outages."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from services.audit.adapters.batch import StoreBroken
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.orphans import OrphanWatch
from services.audit.ports import Draft, Filter
from services.audit.verify.database import verify_database
from services.audit.writers import CORE
from services.common.errors import AlreadyExists, Unavailable
from tests.fakes.clock import FakeClock
from tests.fakes.postgres import Postgres
from tests.unit.audit.support import NOW, draft, event, intent, outcome, search_all, sequences, signer


@pytest.mark.req("I4.7", "I4.8")
async def test_a_database_that_crashes_loses_nothing_acknowledged_and_is_taken_up_again(
    postgres: Postgres, tmp_path: Path
) -> None:
    store = PostgresStore(postgres.socket_url(), "test", signer())
    log = GroupCommitLog(store, Mirror(tmp_path / "audit.log", store.events()), queue_limit=64)
    stored = [(await log.append(draft())).event_id for _ in range(5)]
    postgres.stop()
    with pytest.raises(Unavailable):
        await log.append(draft())
    assert log.problems()
    with pytest.raises(Unavailable):
        await log.find(CORE, stored[0])
    watch = OrphanWatch(store.reads(), FakeClock())
    assert await watch.look() == ()
    postgres.start()
    assert await log.find(CORE, stored[0])
    stored.append((await log.append(draft())).event_id)
    assert log.problems() == []
    await log.stop()
    lines = (tmp_path / "audit.log").read_bytes().splitlines()
    assert [json.loads(line)["event_id"] for line in lines] == stored


@pytest.mark.req("I4.7", "R23")
def test_whoever_lost_its_connection_is_fenced_off(postgres: Postgres) -> None:
    url = postgres.socket_url()
    first = PostgresStore(url, "test", signer())
    first.commit([draft()])
    (pid,) = first._connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    second = PostgresStore(url, "test", signer())
    with pytest.raises(psycopg.Error):
        first.commit([draft()])
    with pytest.raises(StoreBroken, match="in use"):
        first.recover()
    second.commit([draft()])
    second.close()
    with pytest.raises(StoreBroken, match="taken over"):
        first.recover()
    first.close()


@pytest.mark.req("I4.7", "R21", "R23")
def test_replicas_are_read_as_one_log_by_time_and_each_event_once(postgres: Postgres) -> None:
    url = postgres.socket_url()
    east = PostgresStore(url, "east", signer("east"))
    west = PostgresStore(url, "west", signer("west"))
    asked, both = intent(user="i"), event(timestamp=NOW + timedelta(seconds=4))
    east.commit([Draft(asked.fields(CORE)), Draft(replace(event(), timestamp=NOW + timedelta(seconds=2)).fields(CORE))])
    west.commit([draft(timestamp=NOW + timedelta(seconds=1)), draft(timestamp=NOW + timedelta(seconds=3))])
    for store in (west, east):
        store.commit([Draft(both.fields(CORE))])
    reads = west.reads()
    merged = search_all(reads, Filter())
    assert [(record.log_id, record.sequence) for record in merged] == [
        ("east", 0), ("", 0), ("east", 1), ("", 1), ("east", 2),
    ]  # fmt: skip
    assert [each.count for each in reads.count(Filter(), [], 0, 9)] == [5]
    # The intent lies in one log, its outcome will lie in the other (R21).
    (orphan,), after = reads.unfinished({})
    assert orphan.event_id == asked.event_id
    found = reads.find(CORE, asked.event_id)
    assert found is not None
    assert found.log_id == "east"
    assert reads.find_intent(CORE, asked.event_id) == (found, None)
    end = outcome(asked.event_id)
    west.commit([Draft(end.fields(CORE))])
    east_reads = east.reads()
    assert east_reads.find_intent(CORE, asked.event_id)[1] == end.event_id, "one outcome over all replicas (R5)"
    east_reads.close()
    assert reads.without_outcome([orphan]) == []
    late = intent()
    east.commit([Draft(late.fields(CORE))])
    seen = list[str]()
    while True:
        more, looked = reads.unfinished(after)
        seen += [each.event_id for each in more]
        if looked == after:
            break
        after = looked
    assert seen == [late.event_id], "what was looked at in one log is not looked at again for another's sake"
    reads.close()
    east.close()
    west.close()


@pytest.mark.req("I4.7", "R5", "R8")
def test_of_two_outcomes_that_reach_two_replicas_at_once_one_is_taken(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither service saw the other's outcome when it looked; the second commit waits and then sees it."""
    url = postgres.socket_url()
    east, west = (PostgresStore(url, name, signer(name)) for name in ("east", "west"))
    asked, others = intent(), [draft() for _ in range(2)]
    east.commit([Draft(asked.fields(CORE))])
    ends = [outcome(asked.event_id) for _ in range(2)]
    first, second = (Draft(end.fields(CORE)) for end in ends)
    west._connection.execute("SET lock_timeout = 0")
    committing, answered, done = threading.Event(), threading.Event(), east._finish

    def finish() -> None:
        committing.set()
        with psycopg.connect(url, autocommit=True) as admin:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not ((admin.execute(waiting).fetchone() or (0,))[0] or answered.is_set()):
                pass
        done()

    monkeypatch.setattr(east, "_finish", finish)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(east.commit, [first])
        committing.wait()
        refused = west.commit([others[0], second, others[1]])
        answered.set()
        assert sequences(taken.result().answers) == [1]
    assert sequences(refused.answers) == [0, 1]
    assert isinstance(refused.answers[1], AlreadyExists)
    monkeypatch.undo()
    # Sent again, to whichever replica, it is the same outcome (R8).
    assert sequences(west.commit([first]).answers) == [2]
    assert sequences(east.commit([first]).answers) == [1]
    reads = east.reads()
    assert [record.sequence for record in search_all(reads, Filter({"phase": "outcome"}))] == [1]
    reads.close()
    for store in (east, west):
        store.close()
    for name in ("east", "west"):
        verify_database(url, name, signer(name).verifier)
