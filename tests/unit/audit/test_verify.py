"""Offline verification finds every change and names the first event that it concerns (R23)."""

import json
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import canonical
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.checkpoint import NoteSigner
from services.audit.merkle import Tree, leaf_hash
from services.audit.schema import COLUMNS, derive
from services.audit.verify import (
    Altered,
    Leaves,
    Unreadable,
    kept_heads,
    prove,
    size_of,
    verify_lines,
    verify_store,
)
from tests.unit.audit.support import draft, fill, signer

COMMITS = (1, 2, 3, 2)
VERIFIER = signer().verifier


@pytest.fixture
def log(tmp_path: Path) -> Path:
    fill(tmp_path, COMMITS)
    return tmp_path


def check(log: Path) -> None:
    verify_store(log / "audit.db", VERIFIER, log / "audit.log")


def execute(log: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(log / "audit.db") as connection:
        connection.execute(statement, values)
    connection.close()


def lines(log: Path) -> list[bytes]:
    return (log / "audit.log").read_bytes().splitlines(keepends=True)


@pytest.mark.req("I2.5", "R23")
def test_an_untouched_log_is_intact_and_verifying_writes_nothing(log: Path) -> None:
    before = {path.name: path.read_bytes() for path in log.iterdir()}
    report = verify_store(log / "audit.db", VERIFIER, log / "audit.log")
    assert (report.events, report.checkpoints, report.mirrored) == (8, 5, 8)
    assert report.root == Tree.of(leaf_hash(line[:-1]) for line in lines(log)).root()
    after = {path.name: path.read_bytes() for path in log.iterdir()}
    assert after == before


def test_an_empty_log_is_intact(tmp_path: Path) -> None:
    fill(tmp_path, [])
    assert verify_store(tmp_path / "audit.db", VERIFIER, tmp_path / "audit.log").events == 0


def test_a_log_is_verified_while_it_is_written(log: Path) -> None:
    store = SqliteStore(log / "audit.db", signer())
    with (log / "audit.log").open("ab") as mirror:
        for line in store.commit([draft()]).lines:
            mirror.write(line + b"\n")
    assert verify_store(log / "audit.db", VERIFIER, log / "audit.log").events == 9
    store.close()


@pytest.mark.req("R23")
@pytest.mark.parametrize("column", ["event", "leaf"])
def test_every_flipped_byte_of_an_event_or_leaf_is_found_and_named(log: Path, column: str) -> None:
    with sqlite3.connect(log / "audit.db") as connection:
        (data,) = connection.execute(f"SELECT {column} FROM events WHERE sequence = 4").fetchone()
        for position in random.Random(1).sample(range(len(data)), min(len(data), 60)):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 8
            connection.execute(f"UPDATE events SET {column} = ? WHERE sequence = 4", (bytes(changed),))
            connection.commit()
            with pytest.raises(Altered, match="event 4") as found:
                check(log)
            assert found.value.sequence == 4
        connection.execute(f"UPDATE events SET {column} = ? WHERE sequence = 4", (data,))
    connection.close()
    check(log)


@pytest.mark.req("R23")
@pytest.mark.parametrize("column", COLUMNS)
def test_every_derived_column_is_recomputed(log: Path, column: str) -> None:
    execute(log, f'UPDATE events SET "{column}" = "{column}" || \'x\' WHERE sequence = 5')
    with pytest.raises(Altered, match=f"event 5 is altered: its column {column}"):
        check(log)


@pytest.mark.req("R23")
def test_every_flipped_byte_of_a_signed_root_is_found(log: Path) -> None:
    with sqlite3.connect(log / "audit.db") as connection:
        (note,) = connection.execute("SELECT note FROM checkpoints WHERE number = 3").fetchone()
        for position in range(0, len(note.encode()), 3):
            changed = bytearray(note.encode())
            changed[position] ^= 2
            connection.execute("UPDATE checkpoints SET note = CAST(? AS TEXT) WHERE number = 3", (bytes(changed),))
            connection.commit()
            with pytest.raises(Altered, match="signed root 3 is altered"):
                check(log)
    connection.close()


@pytest.mark.req("R23", "I2.5")
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM events WHERE sequence = 3", "event 3 is missing"),
        ("DELETE FROM events WHERE sequence = 7", "event 7 is missing"),
        ("UPDATE checkpoints SET size = 4 WHERE number = 2", "signed root 2 is altered"),
        ("UPDATE checkpoints SET root = zeroblob(32) WHERE number = 2", "signed root 2 is altered"),
        ("DELETE FROM checkpoints WHERE number = 2", "signed root 2 is missing"),
        ("DELETE FROM checkpoints WHERE number = 0", "signed root 0"),
        ("DELETE FROM checkpoints WHERE number = 4", "event 6 and what follows is under no signed root"),
        ("UPDATE log SET origin = 'x'", "does not belong to the log"),
        ("UPDATE keys SET vkey = 'x'", "the keys of the log are altered"),
        ("DELETE FROM keys", "the keys of the log are altered"),
        ("UPDATE events SET sequence = 100 WHERE sequence = 2", "event 2 is missing"),
    ],
)
def test_what_is_removed_or_replaced_is_named(log: Path, statement: str, message: str) -> None:
    execute(log, statement)
    with pytest.raises(Altered, match=message):
        check(log)


@pytest.mark.req("R23")
def test_reordered_events_are_named(log: Path) -> None:
    for old, new in ((3, -1), (4, 3), (-1, 4)):
        execute(log, "UPDATE events SET sequence = ? WHERE sequence = ?", new, old)
    with pytest.raises(Altered, match="event 3 is missing or out of place: event 4 stands there"):
        check(log)


def forge(log: Path, sequence: int, user: str) -> None:
    """Rewrites an event with leaf and columns, as somebody does who has the file but not the key."""
    fields = canonical.decode(lines(log)[sequence][:-1]) | {"user": user}
    data = canonical.encode(fields)
    sets = ", ".join(f'"{column}" = ?' for column in COLUMNS)
    execute(
        log,
        f"UPDATE events SET event = ?, leaf = ?, {sets} WHERE sequence = ?",
        data,
        leaf_hash(data),
        *derive(fields),
        sequence,
    )


@pytest.mark.req("R23")
def test_a_careful_forgery_does_not_lead_to_the_signed_root(log: Path) -> None:
    forge(log, 4, "mallory")
    with pytest.raises(Altered, match="event 4 is altered: the mirror has it otherwise") as found:
        check(log)
    assert found.value.sequence == 4
    with pytest.raises(Altered, match="one of the events 3 to 5 is altered"):
        verify_store(log / "audit.db", VERIFIER)


@pytest.mark.req("R23")
def test_a_root_signed_with_another_key_is_no_help(log: Path) -> None:
    mallory = NoteSigner(VERIFIER.name, Ed25519PrivateKey.generate())
    execute(log, "UPDATE checkpoints SET note = ? WHERE number = 4", mallory.sign(8, b"x" * 32))
    with pytest.raises(Altered, match="signed root 4"):
        check(log)


@pytest.mark.req("R23", "I2.5")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows[:2], rows[2].replace(b"user-2", b"user-9"), *rows[3:]], "event 2 is altered"),
        (lambda rows: [*rows[:2], *rows[3:]], "event 2 is altered, missing or out of place: line 3"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "event 0 is altered, missing or out of place"),
        (lambda rows: [*rows, b"{}\n"], "line 9 is not in the store"),
        (lambda rows: [*rows, rows[7]], "line 9 is not in the store"),
        (lambda rows: rows[:-1], "event 7 is missing: the mirror ends"),
    ],
)
def test_a_changed_mirror_is_named(log: Path, change: Callable[[list[bytes]], list[bytes]], message: str) -> None:
    (log / "audit.log").write_bytes(b"".join(change(lines(log))))
    with pytest.raises(Altered, match=message) as found:
        check(log)
    assert str(log / "audit.log") in str(found.value)


@pytest.mark.req("R23")
def test_every_flipped_byte_of_the_mirror_is_found(log: Path) -> None:
    path = log / "audit.log"
    whole = path.read_bytes()
    for position in random.Random(2).sample(range(len(whole)), 60):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 7
        path.write_bytes(changed)
        with pytest.raises(Altered):
            check(log)


@pytest.mark.parametrize("torn", [0, 20])
def test_a_crash_between_commit_and_mirror_is_no_alteration(log: Path, torn: int) -> None:
    """The write-ahead log of a killed service is still there; only the last commit may be missing."""
    rows = lines(log)
    store = SqliteStore(log / "audit.db", signer())
    (line,) = store.commit([draft()]).lines
    copy = log / "copy"
    copy.mkdir()
    for name in ("audit.db", "audit.db-wal", "audit.db.lock"):
        (copy / name).write_bytes((log / name).read_bytes())
    store.close()
    (copy / "audit.log").write_bytes(b"".join(rows) + line[:torn])
    report = verify_store(copy / "audit.db", VERIFIER, copy / "audit.log")
    assert (report.events, report.mirrored) == (9, 8)


@pytest.mark.req("R23")
def test_an_export_with_its_proof_is_verifiable_by_itself(log: Path) -> None:
    rows = lines(log)
    store = SqliteStore(log / "audit.db", signer())
    note = store.checkpoint
    store.close()
    assert size_of(note) == 8
    text = prove(note, [row[:-1] for row in rows])
    leaves = Leaves.of_proof(text, VERIFIER)
    assert verify_lines(rows, leaves).events == 8
    for change, sequence in (
        ([*rows[:3], rows[3].replace(b"user-3", b"user-9"), *rows[4:]], 3),
        ([*rows[:3], *rows[4:]], 3),
        ([*rows[:3], rows[4], rows[3], *rows[5:]], 3),
        (rows[:-1], 7),
        ([*rows, rows[7]], 8),
        ([*rows[:-1], rows[-1][:-1]], 7),
        ([*rows[:-1], b"[]\n"], 7),
    ):
        with pytest.raises(Altered, match=f"event {sequence}") as found:
            verify_lines(change, leaves)
        assert found.value.sequence == sequence
    with pytest.raises(Altered, match="do not lead"):
        prove(note, [row[:-1] for row in rows[1:]])


@pytest.mark.req("R23")
def test_a_changed_proof_is_refused(log: Path) -> None:
    rows = lines(log)
    leaves = [leaf_hash(row[:-1]) for row in rows]
    text = prove(signer().sign(8, Tree.of(leaves).root()), [row[:-1] for row in rows])
    value = json.loads(text)
    changed = [
        value | {"leaves": value["leaves"][::-1]},
        value | {"leaves": value["leaves"][:-1]},
        value | {"checkpoint": signer("other").sign(8, Tree.of(leaves).root())},
        value | {"checkpoint": value["checkpoint"].replace("\n8\n", "\n9\n")},
    ]
    for each in changed:
        with pytest.raises(Altered):
            Leaves.of_proof(json.dumps(each), VERIFIER)
    for broken in ("", "{}", "[]", '{"checkpoint": 1, "leaves": ["*"]}'):
        with pytest.raises(Unreadable):
            Leaves.of_proof(broken, VERIFIER)


@pytest.mark.req("I2.5")
def test_a_copy_of_the_mirror_is_checked_against_the_store(log: Path) -> None:
    rows = lines(log)
    leaves = Leaves.of_store(log / "audit.db", VERIFIER)
    assert verify_lines(rows[:6], leaves).events == 6, "it may have been taken earlier"
    with pytest.raises(Altered, match="event 2 "):
        verify_lines([*rows[:2], *rows[3:]], leaves)
    with pytest.raises(Altered, match=r"event 8 .* is not in the log"):
        verify_lines([*rows, rows[7].replace(b'"sequence":7', b'"sequence":8')], leaves)


@pytest.mark.req("I2.11")
def test_what_cannot_be_read_is_said_to_be_unreadable(log: Path, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no such file"):
        verify_store(tmp_path / "none.db", VERIFIER)
    with pytest.raises(Unreadable, match="mirror"):
        verify_store(log / "audit.db", VERIFIER, tmp_path / "none.log")
    execute(log, "PRAGMA application_id = 1")
    with pytest.raises(Unreadable, match="not an audit store"):
        check(log)
    (log / "audit.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Unreadable, match="cannot be read"):
        check(log)


def head(log: Path, number: int) -> str:
    """A signed tree head as somebody may have kept it."""
    with sqlite3.connect(log / "audit.db") as connection:
        (note,) = connection.execute("SELECT note FROM checkpoints WHERE number = ?", (number,)).fetchone()
    connection.close()
    return str(note)


def verify_with(log: Path, note: str) -> None:
    """The store, and its leaves as an export is checked against them."""
    verify_store(log / "audit.db", VERIFIER, log / "audit.log", {"kept": note})
    Leaves.of_store(log / "audit.db", VERIFIER).check_heads({"kept": note}, VERIFIER)


@pytest.mark.req("I2.5", "R23")
def test_a_log_contains_every_checkpoint_that_was_kept_of_it(log: Path) -> None:
    for number in range(len(COMMITS) + 1):
        verify_with(log, head(log, number))


@pytest.mark.req("I2.5", "R23")
def test_a_kept_checkpoint_shows_a_history_that_was_cut_back_or_written_anew(log: Path, tmp_path: Path) -> None:
    cut, anew = tmp_path / "cut", tmp_path / "anew"
    for directory, commits in ((cut, COMMITS[:-1]), (anew, COMMITS)):
        directory.mkdir()
        fill(directory, commits)
    for directory, said in ((cut, "8 events"), (anew, "another signed root")):
        check(directory)  # By itself it looks whole.
        leaves = Leaves.of_store(directory / "audit.db", VERIFIER)
        heads = {"kept.txt": head(log, len(COMMITS))}
        with pytest.raises(Altered, match=f"kept.txt.*{said}"):
            verify_store(directory / "audit.db", VERIFIER, directory / "audit.log", heads)
        with pytest.raises(Altered, match=f"kept.txt.*{said}"):
            leaves.check_heads(heads, VERIFIER)


@pytest.mark.req("R23")
def test_a_kept_checkpoint_must_be_signed_by_the_log(log: Path) -> None:
    note = head(log, 2)
    foreign = NoteSigner(VERIFIER.name, Ed25519PrivateKey.generate()).sign(3, VERIFIER.open(note).root)
    leaves = Leaves.of_store(log / "audit.db", VERIFIER)
    for bad in (foreign, note.replace("\n3\n", "\n4\n"), "nonsense"):
        with pytest.raises(Altered, match="kept is not a signed root"):
            verify_store(log / "audit.db", VERIFIER, None, {"kept": bad})
        with pytest.raises(Altered, match="kept is not a signed root"):
            leaves.check_heads({"kept": bad}, VERIFIER)


def test_a_kept_checkpoint_is_a_note_or_the_proof_beside_an_export(log: Path) -> None:
    note = head(log, len(COMMITS))
    (log / "note").write_text(note)
    (log / "proof").write_text(prove(note, (line[:-1] for line in lines(log))))
    assert set(kept_heads([log / "note", log / "proof"]).values()) == {note}
    (log / "proof").write_text("{")
    for name in ("proof", "absent"):
        with pytest.raises(Unreadable, match=name):
            kept_heads([log / name])
