"""One contract for both engines: SQLite and PostgreSQL store, fence, recover, find, prove and verify alike."""

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubegate.audit.v1 import audit_pb2
from services.audit import canonical
from services.audit.adapters.batch import StoreBroken
from services.audit.adapters.engine import Reads
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.postgres.connection import check_url, describe
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.adapters.sqlite_store import CHUNK
from services.audit.checkpoint import NoteSigner, origin_of
from services.audit.event import Result
from services.audit.merkle import Tree, check_inclusion, leaf_hash
from services.audit.orphans import OrphanWatch
from services.audit.ports import Ack, Draft, Filter, Record
from services.audit.proofs import Prover
from services.audit.receipt import check
from services.audit.verify import Altered, log_files, verify_log
from services.audit.verify.database import verify_database
from services.audit.writers import AUTHN, CORE
from services.common.errors import AlreadyExists, InvalidArgument, Unavailable
from services.common.runtime_errors import StartupError
from tests.contract.conftest import Open
from tests.fakes.audit_rig import SIGNING_KEY, Rig
from tests.fakes.audit_rig import event as wire_event
from tests.fakes.clock import FakeClock
from tests.fakes.mesh import Mesh
from tests.fakes.postgres import Postgres
from tests.unit.audit.support import NOW, draft, event, intent, outcome, signer


def sequences(answers: Sequence[Any]) -> list[int]:
    return [answer.sequence for answer in answers if isinstance(answer, Ack)]


@pytest.mark.req("I4.7", "R23")
def test_commits_are_stored_once_in_order_under_a_signed_root_and_go_on_after_a_restart(open_store: Open) -> None:
    store = open_store()
    first = draft(user="a")
    committed = store.commit([first, draft(user="b")])
    assert sequences(committed.answers) == [0, 1]
    again = store.commit([first, first, draft(user="c"), Draft({**first.fields, "user": "other"})])
    assert sequences(again.answers) == [0, 0, 2]
    assert isinstance(again.answers[3], AlreadyExists)
    assert list(store.events()) == [*committed.lines, *again.lines]
    assert list(store.events(2)) == list(again.lines)
    head = store.keys.newest.open(store.checkpoint)
    assert (head.size, head.root) == (3, Tree.of(map(leaf_hash, store.events())).root())
    store.close()
    store = open_store(may_create=False)
    assert store.size == 3
    assert sequences(store.commit([draft()]).answers) == [3]
    # The same event of another writer is another event.
    taken = event()
    assert sequences(store.commit([Draft(taken.fields(CORE)), Draft(taken.fields(AUTHN))]).answers) == [4, 5]


@pytest.mark.req("I4.7", "I4.3")
def test_every_proof_of_a_log_beyond_one_node_holds(open_store: Open) -> None:
    store = open_store()
    store.commit([draft() for _ in range(3 * CHUNK + 7)])
    store.commit([draft() for _ in range(400)])
    reads: Reads = store.reads()
    head = store.keys.newest.open(store.checkpoint)
    prover = Prover(reads.nodes, store.size)
    assert prover.root() == head.root
    for index in (0, 255, 256, store.size - 1):
        (record,) = reads.page(Filter(), first=index, end=index + 1, limit=1, descending=False)
        check_inclusion(leaf_hash(record.canonical_json), index, head.size, prover.inclusion(index), head.root)
    assert store.root(100) == Tree.of(leaf_hash(each) for each in list(store.events())[:100]).root()
    reads.close()


@pytest.mark.req("I4.7", "R23")
def test_a_store_is_owned_by_one_and_refused_under_another_key(open_store: Open) -> None:
    store = open_store()
    store.commit([draft()])
    with pytest.raises(StartupError, match="in use by another process"):
        open_store()
    store.close()
    other = NoteSigner(origin_of("test"), Ed25519PrivateKey.generate())
    with pytest.raises(StartupError, match="belongs to the log"):
        open_store(other)
    rotated = open_store(other, signer())
    assert rotated.keys.newest == other.verifier
    rotated.commit([draft()])
    rotated.close()
    assert open_store(other).size == 2


@pytest.mark.req("I4.7", "R23")
def test_an_empty_store_is_refused_where_records_of_it_are_known(open_store: Open) -> None:
    with pytest.raises(StartupError, match="missing or empty"):
        open_store(may_create=False)


FILTERED: list[tuple[Filter, list[int]]] = [
    (Filter(), [0, 1, 2, 3]),
    (Filter({"user": "b"}), [1]),
    (Filter(since=NOW, until=NOW + timedelta(seconds=2)), [0, 1]),
    (Filter(fields=[("metadata.a.b-c/d", ["1"])]), [2]),
    (Filter(fields=[("decision.allowed", [""])]), [0, 1, 2, 3]),
    (Filter(fields=[("principal.roles", ["auditor"])]), [3]),
    (Filter(fields=[("principal.roles", ["", "x"])]), [0, 1, 2]),
    (Filter(fields=[("duration_ms", ["1.5"])]), [1]),
    (Filter(fields=[("sequence", ["2", "3"])]), [2, 3]),
    (Filter(text="NEEDLE"), [0, 2]),
    (Filter(text="b-c"), [2]),
    (Filter(text="Ü"), [1]),
    (Filter(text="ü"), []),
    (Filter(min_duration_ms=1.5, max_duration_ms=2), [1]),
    (Filter({"user": "b"}, text="needle"), []),
]


@pytest.mark.req("I4.7", "I4.4")
def test_both_engines_find_the_same(open_store: Open) -> None:
    store = open_store()
    changes: list[dict[str, Any]] = [
        {"user": "a", "error_message": "a needle, here", "duration_ms": 0.25},
        {"user": "b", "duration_ms": 1.5, "metadata": {"x": "Über\x00"}},
        {"user": "c", "metadata": {"a.b-c/d": "1", "y": "Needle"}},
        {"user": "d", "error_message": 'quote " and \\ and %'},
    ]
    drafts = [draft(timestamp=NOW + timedelta(seconds=n), **change) for n, change in enumerate(changes)]
    principal = {"issuer": "kubegate", "subject": "d", "roles": ["admin", "auditor"]}
    drafts[3] = Draft({**drafts[3].fields, "principal": principal})
    store.commit(drafts)
    reads: Reads = store.reads()
    for chosen, expected in FILTERED:
        found = reads.page(chosen, first=0, end=99, limit=99, descending=False)
        assert [record.sequence for record in found] == expected, chosen
        searched = _search(reads, chosen)
        assert [record.sequence for record in searched] == expected, chosen
    stored = reads.find(CORE, drafts[1].key[1])
    assert stored is not None
    assert canonical.decode(stored.canonical_json)["metadata"] == {"x": "Über\ufffd"}
    assert reads.find(AUTHN, drafts[1].key[1]) is None
    # Sent again with its NUL it is still the same event.
    assert sequences(store.commit([drafts[1]]).answers) == [1]
    reads.close()


def _search(reads: Reads, chosen: Filter, *, descending: bool = False, limit: int = 2) -> list[Record]:
    bounds, cursor, found = reads.bounds(), "", list[Record]()
    while True:
        page = reads.search(chosen, cursor=cursor, bounds=bounds, limit=limit, descending=descending)
        found += page.records
        cursor = page.cursor
        if not cursor:
            return found


@pytest.mark.req("I4.7", "I4.4")
def test_pages_follow_each_other_both_ways_and_end_where_the_question_was_asked(open_store: Open) -> None:
    store = open_store()
    store.commit([draft(timestamp=NOW + timedelta(seconds=n)) for n in range(5)])
    reads: Reads = store.reads()
    assert [record.sequence for record in _search(reads, Filter())] == [0, 1, 2, 3, 4]
    assert [record.sequence for record in _search(reads, Filter(), descending=True)] == [4, 3, 2, 1, 0]
    bounds = reads.bounds()
    store.commit([draft(timestamp=NOW - timedelta(days=1))])
    late = reads.search(Filter(), cursor="", bounds=bounds, limit=9, descending=False)
    assert len(late.records) == 5
    forward = reads.search(Filter(), cursor="", bounds=bounds, limit=1, descending=False).cursor
    for foreign in (forward, "x", "W10="):
        with pytest.raises(InvalidArgument):
            reads.search(Filter(), cursor=foreign, bounds=bounds, limit=1, descending=True)
    reads.close()


@pytest.mark.req("I4.7", "I4.4")
def test_counts_and_orphans(open_store: Open) -> None:
    store = open_store()
    lost, kept = intent(user="lost"), intent(user="kept")
    store.commit([Draft(each.fields(CORE)) for each in (lost, kept, outcome(kept.event_id))])
    store.commit([draft(user="a", timestamp=NOW + timedelta(hours=1)), draft(user="a", result=Result.FAILURE)])
    reads: Reads = store.reads()
    assert [orphan.event_id for orphan in reads.orphans(NOW + timedelta(minutes=1))] == [lost.event_id]
    assert reads.orphans(NOW) == []
    hour = int(NOW.timestamp())
    counts = [
        (each.bucket, each.values, each.count) for each in reads.count(Filter({"user": "a"}), ["result"], 3600, 9)
    ]
    assert counts == [(hour, ("failure",), 1), (hour + 3600, ("success",), 1)]
    assert [each.count for each in reads.count(Filter(), [], 0, 9)] == [5]
    assert reads.count(Filter({"user": "nobody"}), [], 0, 9) == []
    reads.close()


@pytest.mark.req("I4.7", "I4.8")
@pytest.mark.parametrize("persisted", [False, True])
def test_after_a_failed_commit_the_store_takes_up_what_is_really_there(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    store = open_store()
    store.commit([draft()])
    finish, committed = store._finish, draft()

    def fail() -> None:
        if persisted:
            finish()
            if isinstance(store, PostgresStore):
                store._connection.execute("COMMIT")
        raise store.errors("the connection broke")

    monkeypatch.setattr(store, "_finish", fail)
    with pytest.raises(store.errors):
        store.commit([committed])
    monkeypatch.undo()
    assert len(store.recover()) == int(persisted)
    assert store.size == 1 + int(persisted)
    assert sequences(store.commit([committed, draft()]).answers) == [1, 2]


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
    merged = _search(reads, Filter())
    assert [(record.log_id, record.sequence) for record in merged] == [
        ("east", 0), ("", 0), ("east", 1), ("", 1), ("east", 2),
    ]  # fmt: skip
    assert [each.count for each in reads.count(Filter(), [], 0, 9)] == [5]
    # The intent lies in one log, its outcome will lie in the other (R21).
    assert [orphan.event_id for orphan in reads.orphans(NOW + timedelta(minutes=1))] == [asked.event_id]
    found = reads.find(CORE, asked.event_id)
    assert found is not None
    assert found.log_id == "east"
    assert reads.find_intent(CORE, asked.event_id) == (found, None)
    end = outcome(asked.event_id)
    west.commit([Draft(end.fields(CORE))])
    east_reads = east.reads()
    assert east_reads.find_intent(CORE, asked.event_id)[1] == end.event_id, "one outcome over all replicas (R5)"
    east_reads.close()
    assert reads.orphans(NOW + timedelta(minutes=1)) == []
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
    assert [record.sequence for record in _search(reads, Filter({"phase": "outcome"}))] == [1]
    reads.close()
    for store in (east, west):
        store.close()
    for name in ("east", "west"):
        verify_database(url, name, signer(name).verifier)


@pytest.mark.req("I4.7")
def test_events_lie_in_partitions_by_month_and_odd_times_in_the_default_one(postgres: Postgres) -> None:
    url = postgres.socket_url()
    store = PostgresStore(url, "test", signer())
    times = [NOW, NOW + timedelta(days=30), NOW.replace(year=1970), NOW.replace(month=12, day=31)]
    store.commit([draft(timestamp=each) for each in times])
    store.close()
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tableoid::regclass::text, count(*) FROM audit_events GROUP BY 1 ORDER BY 1")
        assert dict(rows) == {"audit_events_2026_11": 1, "audit_events_2026_12": 2, "audit_events_default": 1}
    assert PostgresStore(url, "test", signer()).size == 4


@pytest.mark.req("I4.7", "R23")
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE audit_events SET event = replace(encode(event, 'escape'), 'alice', 'mallo')::bytea WHERE sequence = 1",
         "event 1"),
        ("DELETE FROM audit_events WHERE sequence = 2", "event 2 is missing"),
        ("UPDATE audit_events SET \"user\" = 'bob' WHERE sequence = 0", "column user"),
        ("DELETE FROM audit_nodes", "node"),
        ("UPDATE audit_checkpoints SET note = 'x' WHERE number = 1", "signed root 1"),
        ("UPDATE audit_keys SET vkey = 'x'", "keys of the log"),
        ("DELETE FROM audit_event_keys WHERE sequence = 1", "key of event 1"),
    ],
)  # fmt: skip
def test_what_is_altered_in_the_database_is_named(postgres: Postgres, statement: str, message: str) -> None:
    url = postgres.socket_url()
    store = PostgresStore(url, "test", signer())
    store.commit([draft() for _ in range(300)])
    store.commit([draft()])
    store.close()
    assert verify_database(url, "test", signer().verifier).events == 301
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
    with pytest.raises(Altered, match=message):
        verify_database(url, "test", signer().verifier)


@pytest.mark.req("I4.7", "R23")
@pytest.mark.parametrize("setting", ["synchronous_commit"])
def test_a_database_that_may_lose_events_is_refused(postgres: Postgres, setting: str) -> None:
    url = postgres.socket_url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE kubegate SET {setting} = off".encode())
    try:
        with pytest.raises(StartupError, match=f"{setting} is off"):
            PostgresStore(url, "test", signer())
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER ROLE kubegate RESET {setting}".encode())


@pytest.mark.req("I4.7")
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:geheim@db.example/audit",
        "postgresql://u:geheim@db.example/audit?sslmode=require",
        "postgresql://u:geheim@/audit",
        "mysql://u:geheim@db.example/audit",
        "geheim",
    ],
)
def test_a_database_over_the_network_needs_a_verified_certificate_and_no_message_has_the_password(url: str) -> None:
    with pytest.raises(StartupError) as refusal:
        check_url(url)
    assert "geheim" not in str(refusal.value)
    check_url("postgresql://u:geheim@db.example/audit?sslmode=verify-full")
    assert "geheim" not in describe("postgresql://u:geheim@db.example:5433/audit?sslmode=verify-full")


@pytest.mark.req("I4.7")
def test_a_database_that_is_away_is_said_in_words_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be") as refusal:
        PostgresStore(f"postgresql://u:geheim@/audit?host={tmp_path}", "test", signer())
    assert "geheim" not in str(refusal.value)


@pytest.mark.req("I4.7", "I4.4")
async def test_the_whole_service_runs_on_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    (tmp_path / "home" / "audit").mkdir(parents=True)
    rig = Rig(Mesh(tmp_path / "mesh"), tmp_path / "home" / "audit")
    rig.database = postgres.socket_url()
    await rig.serve_surroundings()
    await rig.start()
    sent = [wire_event(user=f"user-{n % 2}") for n in range(4)]
    for message in sent:
        await rig.append("service/mcp-core", message)
    assert [each["user"] for each in await rig.query(filter=audit_pb2.Filter(user="user-1"))] == ["user-1"] * 2
    receipt = await rig.call(
        "GetReceipt", audit_pb2.GetReceiptRequest(event_id=sent[2].event_id), "", "service/mcp-core"
    )
    head = NoteSigner(origin_of("main"), SIGNING_KEY).verifier
    assert json.loads(check(receipt.tlog_proof, head).event)["event_id"] == sent[2].event_id
    rig.write_home(tmp_path / "home")
    await rig.stop()
    await rig.stop_surroundings()
    log = log_files(rig.directory / "config.yaml")
    assert verify_log(log).mirrored == 5
    assert "postgresql" not in repr(log)
