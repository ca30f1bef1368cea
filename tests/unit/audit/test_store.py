"""The store: idempotent group commits, crashes at the worst moment, and refusal of what does not check out."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.audit import canonical
from services.audit.adapters import opening
from services.audit.adapters.batch import StoreBroken
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.sqlite_reads import SqliteReads
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.merkle import Tree, leaf_hash
from services.audit.ports import Ack, Draft, Filter
from services.audit.verify import verify_store
from services.audit.writers import AUTHN, CORE
from services.common.errors import AlreadyExists
from services.common.runtime_errors import StartupError
from tests.unit.audit.support import draft, event, fill, intent, outcome, signer


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "audit.db", signer())


@pytest.mark.req("R23", "I2.5")
def test_one_commit_stores_events_leaves_and_a_signed_root(store: SqliteStore) -> None:
    committed = store.commit([draft(user="a"), draft(user="b"), draft(user="c")])
    assert [answer.sequence for answer in committed.answers if isinstance(answer, Ack)] == [0, 1, 2]
    assert [canonical.decode(line)["sequence"] for line in committed.lines] == [0, 1, 2]
    assert list(store.events()) == list(committed.lines)
    head = signer().verifier.open(store.checkpoint)
    assert (head.size, head.root) == (3, Tree.of(map(leaf_hash, committed.lines)).root())


@pytest.mark.req("I2.5")
def test_commits_are_fsynced(store: SqliteStore) -> None:
    """synchronous=FULL (2) in WAL mode is what makes an ack mean durable."""
    connection = store._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.req("R23")
def test_the_same_event_is_stored_once_and_another_under_its_id_is_refused(store: SqliteStore) -> None:
    first = draft(user="a")
    store.commit([first, draft()])
    same, again, other = store.commit([first, first, Draft({**first.fields, "user": "b"})]).answers
    assert same == again == Ack(first.key[1], 0)
    assert isinstance(other, AlreadyExists)
    assert store.size == 2


@pytest.mark.req("R23")
def test_the_same_holds_within_one_commit(store: SqliteStore) -> None:
    first = draft(user="a")
    one, two, other = store.commit([first, first, Draft({**first.fields, "user": "b"})]).answers
    assert one == two == Ack(first.key[1], 0)
    assert isinstance(other, AlreadyExists)
    assert store.size == 1


@pytest.mark.req("R22", "R23")
def test_no_writer_can_take_anothers_event_id(store: SqliteStore) -> None:
    taken = event()
    answers = store.commit([Draft(taken.fields("platform/evil")), Draft(taken.fields(AUTHN))]).answers
    assert [answer.sequence for answer in answers if isinstance(answer, Ack)] == [0, 1]


def test_a_store_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fill(tmp_path, [2, 3])
    store = SqliteStore(tmp_path / "audit.db", signer())
    assert store.size == 5
    (answer,) = store.commit([draft()]).answers
    assert isinstance(answer, Ack)
    assert answer.sequence == 5


class Faulty(SqliteStore):
    """Fails at the commit, having persisted it or not."""

    persist = False
    fail = True

    def _finish(self) -> None:
        if not self.fail:
            return super()._finish()
        if self.persist:
            super()._finish()
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.req("I2.5", "R8")
@pytest.mark.parametrize("persisted", [False, True])
def test_after_a_failed_commit_the_store_takes_up_what_is_really_there(tmp_path: Path, persisted: bool) -> None:
    store = Faulty(tmp_path / "audit.db", signer())
    store.persist = persisted
    first = draft()
    with pytest.raises(sqlite3.OperationalError):
        store.commit([first])
    assert store.size == 0
    store.fail = False
    assert len(store.recover()) == int(persisted)
    (answer,) = store.commit([first]).answers
    assert answer == Ack(first.key[1], 0)
    assert store.size == 1
    assert signer().verifier.open(store.checkpoint).size == 1


def test_recovery_refuses_a_file_that_lost_what_was_acknowledged(store: SqliteStore) -> None:
    store.commit([draft()])
    store.commit([draft()])
    store._connection.execute("DELETE FROM checkpoints WHERE number = 2")
    with pytest.raises(StoreBroken):
        store.recover()


def _sql(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return change


@pytest.mark.req("I2.11", "R23")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"not a database" * 1000), "not a SQLite database"),
        (lambda path: os.truncate(path, 0), "missing or empty"),
        (lambda path: path.unlink(), "missing or empty"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
        (_sql("PRAGMA application_id = 7"), "not an audit store of kubegate"),
        (_sql("PRAGMA user_version = 99"), "schema version 99"),
        (_sql("DELETE FROM events WHERE sequence = 4"), "holds 4 events, its last signed root covers 5"),
        (_sql("DELETE FROM events WHERE sequence = 1"), "event 1 is missing"),
        (_sql("UPDATE events SET leaf = zeroblob(32) WHERE sequence = 1"), "do not match its last signed root"),
        (_sql("DELETE FROM checkpoints"), "signed roots are gone"),
        (_sql("UPDATE checkpoints SET note = 'x' WHERE number = 2"), "last signed root is not valid"),
    ],
)
def test_a_store_that_does_not_check_out_is_refused(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    fill(tmp_path, [2, 3])
    path = tmp_path / "audit.db"
    change(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(StartupError, match=message) as refusal:
        SqliteStore(path, signer(), may_create=False)
    assert str(path) in str(refusal.value)
    assert before == (path.read_bytes() if path.exists() else None)


@pytest.mark.req("I2.11")
def test_a_store_under_another_key_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, [1])
    with pytest.raises(StartupError, match="signing_key_file"):
        SqliteStore(tmp_path / "audit.db", signer("other"))


@pytest.mark.req("I2.11")
def test_two_processes_never_share_a_store(store: SqliteStore) -> None:
    with pytest.raises(StartupError, match="in use by another process"):
        SqliteStore(store.path, signer())
    store.close()
    SqliteStore(store.path, signer()).close()


@pytest.mark.req("I2.11")
def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be written"):
        SqliteStore(tmp_path / "no" / "audit.db", signer())


@pytest.mark.req("I2.5")
def test_the_mirror_catches_up_after_a_crash_even_in_the_middle_of_a_line(tmp_path: Path) -> None:
    fill(tmp_path, [2, 3])
    mirror = tmp_path / "audit.log"
    whole = mirror.read_bytes()
    store = SqliteStore(tmp_path / "audit.db", signer())
    for length in (0, 10, len(whole.split(b"\n")[0]), len(whole) - 1, len(whole)):
        mirror.write_bytes(whole[:length])
        Mirror(mirror, store.events()).close()
        assert mirror.read_bytes() == whole
    mirror.unlink()
    Mirror(mirror, store.events()).close()
    assert mirror.read_bytes() == whole
    assert mirror.stat().st_mode & 0o777 == 0o600


@pytest.mark.req("I2.11", "R23")
def test_a_mirror_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, [2])
    mirror = tmp_path / "audit.log"
    whole = mirror.read_bytes()
    store = SqliteStore(tmp_path / "audit.db", signer())
    for content, what in (
        (whole + b"{}\n", "line 3 is not in the store"),
        (whole.replace(b"user-1", b"user-7"), "line 2"),
    ):
        mirror.write_bytes(content)
        with pytest.raises(StartupError, match=what) as refusal:
            Mirror(mirror, store.events())
        assert "kubegate audit verify" in str(refusal.value)
        assert mirror.read_bytes() == content


def test_a_mirror_that_another_program_changes_or_replaces_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, [2])
    path = tmp_path / "audit.log"
    store = SqliteStore(tmp_path / "audit.db", signer())
    mirror = Mirror(path, store.events())
    path.write_bytes(b"")
    with pytest.raises(OSError, match="another program"):
        mirror.catch_up([b"{}"])
    path.rename(tmp_path / "rotated")
    path.write_bytes(b"")
    with pytest.raises(OSError, match="another program"):
        mirror.catch_up([b"{}"])


def test_reads_filter_order_and_bound(tmp_path: Path) -> None:
    fill(tmp_path, [5])
    reads = SqliteReads(tmp_path / "audit.db")
    everything = reads.page(Filter(), first=0, end=9, limit=9, descending=False)
    assert [record.sequence for record in everything] == [0, 1, 2, 3, 4]
    assert [r.sequence for r in reads.page(Filter(), first=1, end=4, limit=2, descending=True)] == [3, 2]
    only = reads.page(Filter({"user": "user-3"}), first=0, end=9, limit=9, descending=False)
    assert only == [everything[3]]
    moment = event().timestamp
    assert reads.page(Filter(since=moment, until=moment), first=0, end=9, limit=9, descending=False) == []
    assert len(reads.page(Filter(since=moment), first=0, end=9, limit=9, descending=False)) == 5
    assert reads.find(CORE, canonical.decode(only[0].canonical_json)["event_id"]) == only[0]
    assert reads.find(AUTHN, canonical.decode(only[0].canonical_json)["event_id"]) is None
    with pytest.raises(LookupError):
        reads.page(Filter({"1=1; --": "x"}), first=0, end=9, limit=9, descending=False)
    reads.close()


@pytest.mark.req("R5")
def test_the_outcome_of_an_intent_is_found_with_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "audit.db", signer())
    begun, lost = intent(), intent()
    end = outcome(begun.event_id)
    store.commit([Draft(each.fields(CORE)) for each in (begun, lost, end)])
    # Another writer's event is nobody's outcome.
    store.commit([Draft(outcome(lost.event_id).fields("platform/evil"))])
    reads = SqliteReads(store.path)
    assert reads.find_intent(CORE, begun.event_id) == (reads.find(CORE, begun.event_id), end.event_id)
    assert reads.find_intent(CORE, lost.event_id) == (reads.find(CORE, lost.event_id), None)
    reads.close()
    store.close()


@pytest.mark.req("I4.7", "R23")
def test_a_store_of_the_first_version_is_brought_along_with_nodes_and_keys(tmp_path: Path) -> None:
    fill(tmp_path, [300, 3])
    path = tmp_path / "audit.db"
    _sql(
        "DROP TABLE retired",
        "DROP TABLE tombstones",
        "DROP INDEX events_holds",
        "DROP TABLE nodes",
        "DROP TABLE keys",
        "DROP TABLE log",
        "DROP INDEX events_by_user",
        "CREATE TABLE log (id INTEGER PRIMARY KEY CHECK (id = 1), origin TEXT NOT NULL, vkey TEXT NOT NULL) STRICT",
        f"INSERT INTO log VALUES (1, '{signer().verifier.name}', '{signer().verifier.vkey}')",
        "PRAGMA user_version = 1",
    )(path)
    store = SqliteStore(path, signer(), may_create=False)
    store.commit([draft()])
    assert store.root(256) == Tree.of(leaf_hash(event) for event in list(store.events())[:256]).root()
    store.close()
    assert verify_store(path, signer().verifier).events == 304


@pytest.mark.req("R23", "I2.11")
def test_a_store_of_the_first_version_that_does_not_check_out_is_left_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path, [3])
    path = tmp_path / "audit.db"
    _sql(
        "DROP TABLE retired",
        "DROP TABLE tombstones",
        "DROP INDEX events_holds",
        "DROP TABLE nodes",
        "DROP TABLE keys",
        "DROP TABLE log",
        "DROP INDEX events_by_user",
        "CREATE TABLE log (id INTEGER PRIMARY KEY CHECK (id = 1), origin TEXT NOT NULL, vkey TEXT NOT NULL) STRICT",
        f"INSERT INTO log VALUES (1, '{signer().verifier.name}', '{signer().verifier.vkey}')",
        "DELETE FROM events WHERE sequence = 1",
        "PRAGMA user_version = 1",
    )(path)
    before = path.read_bytes()
    with pytest.raises(StartupError, match="event 1 is missing"):
        SqliteStore(path, signer(), may_create=False)
    assert path.read_bytes() == before


@pytest.mark.req("I4.8")
@pytest.mark.parametrize(("block", "told"), [(1024, True), (4096, False), (131072, False)])
def test_a_filesystem_with_small_blocks_is_named_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, told: bool
) -> None:
    told_of: list[int] = []

    class Log:
        def warning(self, event: str, *, block: int, **_: object) -> None:
            told_of.append(block)

    monkeypatch.setattr(opening, "log", Log())
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bsize=block))
    SqliteStore(tmp_path / "audit.db", signer()).close()
    assert told_of == ([block] if told else [])


@pytest.mark.req("R23", "I2.11")
@pytest.mark.parametrize(
    ("code", "step"),
    [
        (sqlite3.SQLITE_FULL, "make room"),
        (sqlite3.SQLITE_IOERR_WRITE, "has room"),
        (sqlite3.SQLITE_READONLY, "writable"),
        (sqlite3.SQLITE_BUSY, "other program"),
        (sqlite3.SQLITE_CORRUPT, "restore the store from a backup"),
    ],
)
def test_only_what_is_damaged_is_called_damaged(tmp_path: Path, code: int, step: str) -> None:
    """Whoever restored a backup because a disk was full would lose what came after it."""
    fill(tmp_path, [3])

    def failing(path: Path) -> sqlite3.Connection:
        error = sqlite3.OperationalError("as SQLite says it")
        error.sqlite_errorcode = code
        raise error

    with pytest.raises(StartupError, match="as SQLite says it") as refusal:
        SqliteStore(tmp_path / "audit.db", signer(), connect=failing)
    assert step in str(refusal.value)
    assert ("backup" in str(refusal.value)) == (code == sqlite3.SQLITE_CORRUPT)
    SqliteStore(tmp_path / "audit.db", signer()).close()
