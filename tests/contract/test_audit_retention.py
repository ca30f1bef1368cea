"""Retention: what is old enough is deleted, the rest still proves itself, and nothing can be passed off as deleted."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.adapters.engine import Reads
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.checkpoint import NoteSigner, origin_of
from services.audit.event import EventType, rfc3339
from services.audit.merkle import Tree, check_consistency, check_inclusion, leaf_hash
from services.audit.ports import Draft
from services.audit.proofs import Prover
from services.audit.retention import PLACED, RELEASED, SEGMENT, Tombstone
from services.audit.self_check import SelfCheck
from services.audit.verify import Altered, Report, verify_export, verify_store
from services.audit.verify.database import verify_database
from services.audit.writers import AUDIT, AUTHN
from services.common.errors import NotFound
from services.common.runtime_errors import StartupError
from tests.contract.conftest import Open
from tests.contract.test_audit_cli import VKEY, Home
from tests.fakes.audit_rig import SIGNING_KEY
from tests.fakes.clock import FakeClock
from tests.fakes.mesh import Mesh
from tests.unit.audit.support import NOW, draft, event, signer

OLD = NOW - timedelta(days=40)
UNTIL = rfc3339(NOW - timedelta(days=30))


def old(count: int) -> list[Draft]:
    return [draft(timestamp=OLD + timedelta(seconds=n)) for n in range(count)]


def verified(store: Any, by: NoteSigner | None = None, mirror: Path | None = None) -> Report:
    verifier = (by or signer()).verifier
    if isinstance(store, PostgresStore):
        return verify_database(store._url, "test", verifier, mirror)
    return verify_store(store.path, verifier, mirror)


def execute(store: Any, sqlite: str, postgres: str = "", values: Sequence[Any] = ()) -> None:
    """Behind the back of a store that is closed."""
    if isinstance(store, PostgresStore):
        with psycopg.connect(store._url) as database:
            database.execute((postgres or sqlite).encode(), values)
    else:
        with sqlite3.connect(store.path) as file:
            file.execute(sqlite, values)
        file.close()


@pytest.mark.req("I4.5", "I4.7", "R23")
def test_what_is_deleted_leaves_its_leaves_and_the_rest_still_proves_itself(open_store: Open) -> None:
    store = open_store()
    lines = [*store.commit(old(2 * SEGMENT + 70)).lines, *store.commit([draft() for _ in range(200)]).lines]
    leaves, root = [leaf_hash(line) for line in lines], store.keys.newest.open(store.checkpoint).root
    gone = json.loads(lines[3])["event_id"]
    assert store.retire(UNTIL, 1) == 1
    assert store.retire(UNTIL, 9) == 1
    assert store.retire(UNTIL, 9) == 0, "the third segment holds younger events"
    assert (store.first, store.size) == (2 * SEGMENT, len(lines))
    assert list(store.events()) == lines[2 * SEGMENT :]
    report = verified(store)
    assert (report.events, report.retired, report.root) == (len(lines), 2 * SEGMENT, root)
    reads: Reads = store.reads()
    assert reads.find("service/mcp-core", gone) is None
    prover = Prover(reads.nodes, store.size)
    assert prover.root() == root
    for index in (0, 300, 2 * SEGMENT, len(lines) - 1):
        check_inclusion(leaves[index], index, len(lines), prover.inclusion(index), root)
    for size in (3, 300, 2 * SEGMENT, 600):
        check_consistency(size, Tree.of(leaves[:size]).root(), len(lines), root, prover.consistency(size))
    assert b"".join(reads.retired(0, 9)) == b"".join(leaves[: 2 * SEGMENT])
    tombstone = Tombstone.parse(signer().verifier.verify(reads.tombstone()))
    assert (tombstone.size, tombstone.root) == (2 * SEGMENT, Tree.of(leaves[: 2 * SEGMENT]).root())
    reads.close()
    store.close()
    # A new key speaks for what the old one deleted.
    new = NoteSigner(origin_of("test"), Ed25519PrivateKey.generate())
    store = open_store(new, signer(), may_create=False)
    assert (store.first, store.size) == (2 * SEGMENT, len(lines))
    store.commit([draft()])
    reads = store.reads()
    assert Tombstone.parse(new.verifier.verify(reads.tombstone())).size == 2 * SEGMENT
    reads.close()
    store.close()
    assert verified(store, new).retired == 2 * SEGMENT


FORGED = {
    "a leaf hash": ("UPDATE retired SET leaves = zeroblob(8192) WHERE segment = 0",
                    "UPDATE audit_retired SET leaves = decode(repeat('00', 8192), 'hex') WHERE segment = 0"),
    "no tombstone": ("DELETE FROM tombstones", "DELETE FROM audit_tombstones"),
    "fewer leaf hashes": ("DELETE FROM retired WHERE segment = 0", "DELETE FROM audit_retired WHERE segment = 0"),
    "no note": ("UPDATE tombstones SET note = 'x'", "UPDATE audit_tombstones SET note = 'x'"),
    "a size": ("UPDATE tombstones SET size = 256", "UPDATE audit_tombstones SET size = 256"),
    "an event more": ("DELETE FROM events WHERE sequence = 512", "DELETE FROM audit_events WHERE sequence = 512"),
}  # fmt: skip


@pytest.mark.req("I4.5", "R23")
@pytest.mark.parametrize("what", FORGED)
def test_what_is_altered_about_deleted_events_is_found_and_refused(open_store: Open, what: str) -> None:
    store = open_store()
    store.commit(old(2 * SEGMENT + 1))
    store.retire(UNTIL, 9)
    store.close()
    execute(store, *FORGED[what])
    with pytest.raises(Altered):
        verified(store)
    with pytest.raises(StartupError, match="damaged"):
        open_store()


@pytest.mark.req("I4.5", "R23")
def test_nobody_without_the_key_passes_missing_events_off_as_deleted(open_store: Open) -> None:
    store = open_store()
    leaves = [leaf_hash(line) for line in store.commit(old(SEGMENT + 1)).lines]
    store.close()
    forger = NoteSigner(origin_of("test"), Ed25519PrivateKey.generate())
    note = Tombstone(origin_of("test"), SEGMENT, Tree.of(leaves[:SEGMENT]).root(), UNTIL).sign(forger)
    execute(store, "DELETE FROM events WHERE sequence < 256", "DELETE FROM audit_events WHERE sequence < 256")
    gone = b"".join(leaves[:SEGMENT])
    execute(store, "INSERT INTO retired VALUES (0, ?)", "INSERT INTO audit_retired VALUES ('test', 0, %s)", (gone,))
    execute(
        store, "INSERT INTO tombstones VALUES (0, 256, ?)", "INSERT INTO audit_tombstones VALUES ('test', 0, 256, %s)",
        (note,),
    )  # fmt: skip
    with pytest.raises(Altered, match="not signed by a key of this log"):
        verified(store)
    with pytest.raises(StartupError, match="damaged"):
        open_store()


def hold(action: str, writer: str = AUDIT, kind: EventType = EventType.ADMIN, **metadata: str) -> Draft:
    return Draft(event(action=action, event_type=kind, timestamp=OLD, metadata=metadata).fields(writer))


@pytest.mark.req("I4.5", "I4.7")
def test_a_hold_keeps_what_it_covers_until_it_is_released_and_itself_too(open_store: Open) -> None:
    store = open_store()
    placed = hold(PLACED, reason="case 7", since=rfc3339(OLD + timedelta(seconds=SEGMENT + 5)))
    store.commit(old(3 * SEGMENT))
    # Neither another writer nor another kind of event places or ends one.
    lookalikes = [
        hold(PLACED, AUTHN),
        hold(PLACED, kind=EventType.COMPLIANCE),
        hold(RELEASED, AUTHN, hold=placed.key[1]),
    ]
    store.commit([placed, *lookalikes])
    reads: Reads = store.reads()
    assert [(each.id, each.reason) for each in reads.holds()] == [(placed.key[1], "case 7")]
    assert store.retire(UNTIL, 9) == 1, "what is older than what it keeps"
    store.commit([hold(PLACED, reason="all")])
    assert store.retire(UNTIL, 9) == 0
    for each in reads.holds():
        store.commit([hold(RELEASED, hold=each.id)])
    assert reads.holds() == []
    reads.close()
    assert store.retire(UNTIL, 9) == 2
    assert verified(store).retired == 3 * SEGMENT


@pytest.mark.req("I4.5", "I4.8")
@pytest.mark.parametrize("persisted", [False, True])
def test_a_deletion_that_fails_is_whole_or_not_at_all(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    store = open_store()
    store.commit(old(SEGMENT + 1))
    finish = store._finish

    def fail() -> None:
        if persisted:
            finish()
            if isinstance(store, PostgresStore):
                store._connection.execute("COMMIT")
        raise store.errors("the connection broke")

    monkeypatch.setattr(store, "_finish", fail)
    with pytest.raises(store.errors):
        store.retire(UNTIL, 9)
    monkeypatch.undo()
    store.recover()
    assert store.first == SEGMENT * persisted
    assert store.retire(UNTIL, 9) == int(not persisted)
    assert verified(store).retired == SEGMENT


@pytest.mark.req("I4.5", "R23")
async def test_the_mirror_loses_what_is_deleted_and_catches_up_after_a_crash_in_between(tmp_path: Path) -> None:
    path, mirror = tmp_path / "audit.db", tmp_path / "audit.log"
    store = SqliteStore(path, signer())
    log = GroupCommitLog(store, Mirror(mirror, store.events()), queue_limit=1024)
    await log.append_all(old(SEGMENT + 2))
    before = mirror.read_bytes()
    assert await log.retire(UNTIL, 9) == 1
    assert mirror.read_bytes() == before, "rewritten once, at the end"
    verify_store(path, signer().verifier, mirror)
    assert await log.retire(UNTIL, 9) == 0
    assert len(mirror.read_bytes().splitlines()) == 2
    await log.append(draft())
    with pytest.raises(NotFound, match="deleted by retention"):
        await log.inclusion(3)
    look = SelfCheck(log, store.keys, FakeClock())
    for _ in range(3):
        await look.look()
    assert look.notices() == []
    await log.stop()
    report = verify_store(path, signer().verifier, mirror)
    assert (report.events, report.retired, report.mirrored) == (SEGMENT + 3, SEGMENT, 3)
    after = mirror.read_bytes()

    def opened(content: bytes) -> bytes:
        mirror.write_bytes(content)
        store = SqliteStore(path, signer())
        reads = store.reads()
        try:
            Mirror(mirror, store.events(), store.first, partial(reads.nodes, 0)).close()
        finally:
            reads.close()
            store.close()
        return mirror.read_bytes()

    for crashed in (before, before[:1000], before[: before.index(b"\n") + 1], b""):
        assert opened(crashed) == after
    for foreign in (before.replace(b"list_pods", b"list_pets", 1), after[after.index(b"\n") + 1 :]):
        with pytest.raises(StartupError, match="does not match"):
            opened(foreign)


@pytest.mark.req("I4.5", "I4.4", "R15")
async def test_operators_see_hold_and_retire_over_the_rpcs_and_all_of_it_is_on_record(tmp_path: Path) -> None:
    home = Home(Mesh(tmp_path / "mesh"), tmp_path / "home")
    await home.serve_surroundings()
    home.config()  # Makes the keys.
    store = SqliteStore(home.directory / "audit.db", NoteSigner(origin_of("main"), SIGNING_KEY))
    begin = datetime.now(UTC) - timedelta(days=40)
    store.commit([draft(timestamp=begin) for _ in range(2 * SEGMENT + 9)])
    store.close()
    await home.start()
    home.write_home(home.home)
    assert "retention_days" in await home.run("retire", code=2)
    held = json.loads(await home.run("hold", "--reason", "case 7", "--json"))["id"]
    await home.stop()
    home.retention_days = 30
    await home.start()
    home.write_home(home.home)
    shown = json.loads(await home.run("retention", "--json"))
    assert (shown["days"], shown["first_sequence"]) == (30, 0)
    assert [(each["id"], each["reason"], each["placed_by"]) for each in shown["holds"]] == [(held, "case 7", "admin")]
    assert json.loads(await home.run("retire", "--json")) == {"deleted": 0}
    assert "no such hold" in await home.run("release", "nonsense", "--reason", "x", code=2)
    await home.run("release", held, "--reason", "closed")
    assert json.loads(await home.run("retire", "--json")) == {"deleted": 2 * SEGMENT}
    assert "no legal hold" in await home.run("retention")
    # The whole log is exported with what proves that only old events are missing, and so is verified anywhere.
    file = tmp_path / "export.jsonl"
    await home.run("export", str(file))
    assert "512 of them deleted" in await home.run("verify", str(file), "--key", VKEY)
    lines, proof = file.read_bytes().splitlines(keepends=True), file.with_name("export.jsonl.proof").read_text()
    verifier = NoteSigner(origin_of("main"), SIGNING_KEY).verifier
    with pytest.raises(Altered, match="missing or out of place"):
        verify_export(lines[1:], proof, verifier)
    without = {name: value for name, value in json.loads(proof).items() if name != "tombstone"}
    with pytest.raises(Altered):
        verify_export(lines, json.dumps(without), verifier)
    records = await home.query(filter={"event_type": 6}, limit=1000)
    actions = [(each["action"], each["result"], each["user"]) for each in records]
    for action in (PLACED, RELEASED, "audit.Retire", "audit.Retired", "audit.GetRetention", "audit.GetRetiredLeaves"):
        assert (action, "success", "admin") in actions
    assert "512 of them deleted" in await home.run("verify")
    await home.stop()
    await home.stop_surroundings()
