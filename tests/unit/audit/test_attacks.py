"""What an attacker with one foot in the door tries against the record: to hide, misdate, crowd out, confuse."""

import asyncio
import base64
import json
import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.audit import bounded, canonical
from services.audit.adapters import sqlite_reads
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.bounded import TooSlow
from services.audit.checkpoint import BadCheckpoint, BadKey, NoteVerifier
from services.audit.event import EventType, Phase
from services.audit.files import CsvFile
from services.audit.masking import is_secret
from services.audit.ports import Capacity, Draft, Filter, Record
from services.audit.receipt import BadReceipt, check
from services.audit.slots import Slots
from services.audit.verify import Altered, Unreadable, kept_heads, verify_export, verify_store
from services.audit.witness import WitnessVerifier
from services.audit.writers import CORE
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.runtime_errors import StartupError
from tests.unit.audit.support import NOW, event, fill, intent, outcome, signer
from tests.unit.audit.test_service import OPERATOR, PLATFORM, Rig, rig

__all__ = ["rig"]

VERIFIER = signer().verifier

FOREIGN = {
    "trigger": [
        "CREATE TRIGGER quiet AFTER INSERT ON events WHEN NEW.user = 'mallory' "
        "BEGIN DELETE FROM events WHERE sequence = NEW.sequence; END"
    ],
    "view in place of the table": [
        "ALTER TABLE events RENAME TO events2",
        "CREATE VIEW events AS SELECT * FROM events2",
    ],
    "no unique index": ["DROP INDEX events_by_key"],
    "a unique index that is none": [
        "DROP INDEX events_by_key",
        "CREATE INDEX events_by_key ON events (writer, event_id)",
    ],
    "a table more": ["CREATE TABLE luggage (x)"],
}


@pytest.mark.req("R23", "I4.3")
@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_put_into_a_store_beside_its_events_is_found(tmp_path: Path, what: str) -> None:
    fill(tmp_path, [2, 1])
    path = tmp_path / "audit.db"
    with sqlite3.connect(path) as connection:
        connection.execute("ANALYZE")  # An operator may.
    connection.close()
    verify_store(path, VERIFIER, tmp_path / "audit.log")
    with sqlite3.connect(path) as connection:
        for statement in FOREIGN[what]:
            connection.execute(statement)
    connection.close()
    with pytest.raises(Altered):
        verify_store(path, VERIFIER, tmp_path / "audit.log")
    before = path.read_bytes()
    with pytest.raises(StartupError, match="damaged"):
        SqliteStore(path, signer())
    assert path.read_bytes() == before


@pytest.mark.req("R23")
def test_a_rollback_journal_that_sqlite_would_play_back_is_found(tmp_path: Path) -> None:
    fill(tmp_path, [2])
    (tmp_path / "audit.db-journal").write_bytes(b"x" * 512)
    with pytest.raises(Altered, match="rollback journal"):
        verify_store(tmp_path / "audit.db", VERIFIER, tmp_path / "audit.log")


@pytest.mark.req("R22", "I4.4")
@pytest.mark.parametrize("off", [timedelta(hours=25), timedelta(hours=-25), timedelta(days=-9000)])
async def test_no_writer_dates_an_event_out_of_sight(rig: Rig, off: timedelta) -> None:
    with pytest.raises(InvalidArgument, match="within 24 hours"):
        await rig.append(CORE, timestamp=NOW + off)
    assert rig.log.records == []
    await rig.append(CORE, timestamp=NOW + timedelta(hours=24) * (off / abs(off)))


@pytest.mark.req("R25")
async def test_a_platform_service_gets_no_capacity_that_is_kept_for_calls_of_tools(rig: Rig) -> None:
    """An outcome of its own, sent again and again, would take what the core needs to finish a change."""
    begun = replace(intent(), event_type=EventType.EXTERNAL)
    await rig.service.append(PLATFORM, begun, "")
    await rig.service.append(PLATFORM, replace(outcome(begun.event_id), event_type=EventType.EXTERNAL), "")
    assert [each.capacity for each in rig.log.drafts] == [Capacity.GUEST, Capacity.GUEST]
    assert rig.log.records[1]["phase"] == Phase.OUTCOME


@pytest.mark.req("R25", "I4.4")
async def test_one_reader_cannot_crowd_out_the_others(rig: Rig) -> None:
    rig.principals.identities |= {"other": replace(rig.principals.identities["admin"], authorized_party="operator/o")}
    rig.policy.readers = ("admin", "other")
    tails = [rig.tailing.follow(rig.reader(), Filter(), 0) for _ in range(17)]
    for each in tails[:16]:
        await anext(each)
    with pytest.raises(ResourceExhausted, match="16 of operator/admin"):
        await anext(tails[16])
    other = rig.tailing.follow(rig.reader("other", "operator/o"), Filter(), 0)
    assert await anext(other)
    await tails[0].aclose()
    assert await anext(rig.tailing.follow(rig.reader(), Filter(), 0)), "a place that is given up is free"


def test_places_are_bounded_for_all_together_too() -> None:
    slots = Slots("Readings", total=2, each=1)
    with slots.of("a"), slots.of("b"):
        for peer in ("a", "c"):
            with pytest.raises(ResourceExhausted) as refusal, slots.of(peer):
                pass
            assert refusal.value.retry_after
    with slots.of("c"):
        pass


@pytest.mark.req("I4.4", "I4.1")
async def test_the_record_of_a_search_shows_all_that_was_searched_for_but_no_secret(rig: Rig) -> None:
    values = ("a" * 1100, "victim")
    await rig.query(filter_=Filter(fields=[("user", values), ("metadata.password", ("hunter2",))], text="victim"))
    metadata = rig.log.records[-1]["metadata"]
    assert json.loads(metadata["filter.user"]) == list(values)
    assert metadata["filter.text"] == "victim"
    assert "hunter2" not in json.dumps(metadata)


@pytest.mark.req("I4.1")
def test_names_of_secrets_are_seen_through_their_disguises() -> None:
    for name in ("password_old", "tokenValue", "secret.0", "pwd", "totp_seed", "id_jwt", "signingKey", "apikey_hash"):
        assert is_secret(name), name
    for name in ("token_count", "key_id", "seedling", "monkey", "passage", "credential_id", "keyboard"):
        assert not is_secret(name), name


_NOTE = "kubegate.internal/audit/test\n0\n" + base64.b64encode(bytes(32)).decode() + "\n\n\u2014 "
CRAFTED = [
    "",
    "\n\n",
    f"{_NOTE}kubegate.internal/audit/test \u00fc\u00fc\n",
    f"{_NOTE}w \u00fc\n",
    "a\n9\nx\n\n\u2014 a b\n",
]


@pytest.mark.req("I4.3")
@pytest.mark.parametrize("text", CRAFTED)
def test_crafted_notes_and_keys_are_refused_in_words(text: str) -> None:
    witness = WitnessVerifier("w", bytes(32))
    for verifier in (VERIFIER, witness):
        with pytest.raises(BadCheckpoint):
            verifier.open(text)
    for kind in (NoteVerifier, WitnessVerifier):
        with pytest.raises(BadKey):
            kind.from_vkey(f"a+b+{text or chr(252)}")


@pytest.mark.req("I4.3")
@pytest.mark.parametrize(
    "text", [*CRAFTED, *(f"c2sp.org/tlog-proof@v1\nextra \u00fc\nindex 0\n\n{n}" for n in CRAFTED)]
)
def test_crafted_receipts_are_refused_in_words(text: str) -> None:
    with pytest.raises(BadReceipt):
        check(text, VERIFIER)


DEEP = "[" * 100_000
PROOFS = [
    "", "[]", "7", DEEP, '{"a":' * 100_000,
    '{"inclusion": 7, "checkpoint": 7}', '{"inclusion": [[0]], "checkpoint": ""}',
    '{"leaves": ["\u00fc"], "checkpoint": ""}', '{"leaves": 3, "checkpoint": ""}', '{"inclusion": [[1e999, []]]}',
]  # fmt: skip


@pytest.mark.req("I4.3")
@pytest.mark.parametrize("proof", PROOFS)
def test_crafted_proofs_prove_nothing_and_break_nothing(tmp_path: Path, proof: str) -> None:
    with pytest.raises((Altered, Unreadable)):
        verify_export([b"{}\n"], proof, VERIFIER)
    file = tmp_path / "kept"
    file.write_text(proof)
    try:
        kept_heads([file])
    except Unreadable:
        pass


@pytest.mark.req("I4.4")
@pytest.mark.parametrize("cell", ["\n=1+1", "\uff1d1+1", "=1+1", "@x", "\t=1"])
def test_no_cell_of_a_csv_runs_in_a_spreadsheet(cell: str) -> None:
    fields = {**event(user=cell).fields(CORE), "sequence": 0}
    text = CsvFile().part([Record(0, canonical.encode(fields))]).decode()
    assert f"'{cell}" in text


@pytest.mark.req("I4.4", "R27")
def test_a_search_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, [60])
    monkeypatch.setattr(sqlite_reads, "_STEPS", 1)
    reads = sqlite_reads.SqliteReads(tmp_path / "audit.db")
    assert reads.count(Filter(text="x"), [], 0, 1) == []
    monkeypatch.setattr(bounded, "PATIENCE", -1)
    with pytest.raises(TooSlow, match="narrow it to less time"):
        reads.count(Filter(text="x"), [], 0, 1)
    reads.close()


@pytest.mark.req("I4.4")
async def test_a_tail_looks_once_for_many_commits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    page = rig.log.page

    async def counted(*args: object, **options: object) -> object:
        nonlocal looks
        looks += 1
        return await page(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.log, "page", counted)
    tail = rig.tailing.follow(rig.reader(peer=OPERATOR), Filter({"user": "user-49"}), None)
    found = asyncio.ensure_future(anext(tail))
    await asyncio.sleep(0)
    for n in range(50):
        await rig.log.append(Draft(event(user=f"user-{n}").fields(CORE)))
        await asyncio.sleep(0)
    assert [canonical.decode(record.canonical_json)["user"] for record in await found] == ["user-49"]
    assert looks <= 4
    await tail.aclose()
