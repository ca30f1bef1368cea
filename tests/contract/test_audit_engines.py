"""One contract for both engines: SQLite and PostgreSQL store, recover, find, prove and count alike."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import bounded, canonical
from services.audit.adapters.engine import Reads
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.adapters.sqlite_store import CHUNK
from services.audit.checkpoint import NoteSigner, origin_of
from services.audit.event import Result
from services.audit.merkle import Tree, check_inclusion, leaf_hash
from services.audit.ports import Draft, Filter
from services.audit.proofs import Prover
from services.audit.writers import AUTHN, CORE
from services.common.errors import AlreadyExists, InvalidArgument
from services.common.runtime_errors import StartupError
from tests.contract.conftest import Open
from tests.unit.audit.support import NOW, draft, event, intent, outcome, search_all, sequences, signer


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
        searched = search_all(reads, chosen)
        assert [record.sequence for record in searched] == expected, chosen
    stored = reads.find(CORE, drafts[1].key[1])
    assert stored is not None
    assert canonical.decode(stored.canonical_json)["metadata"] == {"x": "Über\ufffd"}
    assert reads.find(AUTHN, drafts[1].key[1]) is None
    # Sent again with its NUL it is still the same event.
    assert sequences(store.commit([drafts[1]]).answers) == [1]
    reads.close()


@pytest.mark.req("I4.7", "I4.4")
def test_pages_follow_each_other_both_ways_and_end_where_the_question_was_asked(open_store: Open) -> None:
    store = open_store()
    store.commit([draft(timestamp=NOW + timedelta(seconds=n)) for n in range(5)])
    reads: Reads = store.reads()
    assert [record.sequence for record in search_all(reads, Filter())] == [0, 1, 2, 3, 4]
    assert [record.sequence for record in search_all(reads, Filter(), descending=True)] == [4, 3, 2, 1, 0]
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
    found, after = reads.unfinished({})
    assert [(each.writer, each.event_id, each.user) for each in found] == [(CORE, lost.event_id, "lost")]
    assert reads.unfinished(after) == ((), after)
    assert reads.without_outcome(found) == found
    store.commit([Draft(outcome(lost.event_id).fields(CORE))])
    assert reads.without_outcome(found) == []
    assert reads.unfinished({})[0] == []
    hour = int(NOW.timestamp())
    counts = [
        (each.bucket, each.values, each.count) for each in reads.count(Filter({"user": "a"}), ["result"], 3600, 9)
    ]
    assert counts == [(hour, ("failure",), 1), (hour + 3600, ("success",), 1)]
    assert [each.count for each in reads.count(Filter(), [], 0, 9)] == [6]
    assert reads.count(Filter({"user": "nobody"}), [], 0, 9) == []
    reads.close()


@pytest.mark.req("R21")
def test_intents_are_looked_for_in_short_statements_of_new_records_only(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "SCAN", 2)
    store = open_store()
    intents = [intent() for _ in range(5)]
    store.commit([Draft(each.fields(CORE)) for each in intents])
    reads: Reads = store.reads()
    after: Mapping[str, int] = {}
    for expected in ([0, 1], [2, 3], [4], []):
        found, after = reads.unfinished(after)
        assert [each.sequence for each in found] == expected
    store.commit([Draft(each.fields(CORE)) for each in (outcome(intents[0].event_id), intent())])
    assert [each.sequence for each in reads.unfinished(after)[0]] == [6]
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
