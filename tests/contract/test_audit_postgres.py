"""A log in PostgreSQL: partitions, what is altered in it, databases and URLs that are refused, the whole service."""

import json
import os
import socket
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from kubegate.audit.v1 import audit_pb2
from services.audit.adapters.postgres.connection import check_url, connect, describe
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.checkpoint import NoteSigner, origin_of
from services.audit.receipt import check
from services.audit.verify import Altered, log_files, verify_log
from services.audit.verify.database import verify_database
from services.common.postgres import UNANSWERED
from services.common.runtime_errors import StartupError
from tests.fakes.audit_rig import SIGNING_KEY, Rig
from tests.fakes.audit_rig import event as wire_event
from tests.fakes.mesh import Mesh
from tests.fakes.postgres import Postgres
from tests.unit.audit.support import NOW, draft, signer


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


@pytest.mark.req("I4.7")
def test_a_database_behind_a_silent_partition_is_given_up(postgres: Postgres) -> None:
    """Else the one thread that writes waits for a quarter of an hour, and with it everybody."""
    url = postgres.database().replace("kubegate@", f"kubegate:{postgres.password}@")
    connection = connect(url)
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNANSWERED["tcp_user_timeout"]
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == UNANSWERED["keepalives_idle"]
    connection.close()
    with connect(f"{url}?tcp_user_timeout=7000") as patient, socket.socket(fileno=os.dup(patient.fileno())) as line:
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000, "what the URL says holds"


@pytest.mark.req("I4.7", "R23")
def test_a_statement_that_hangs_ends_the_commit_and_not_the_writer(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.adapters.postgres.store.COMMIT_PATIENCE", 200)
    store = PostgresStore(postgres.socket_url(), "test", signer())

    def hang() -> None:
        store._connection.execute("SELECT pg_sleep(60)")

    finish = store._finish
    monkeypatch.setattr(store, "_finish", hang)
    with pytest.raises(psycopg.errors.QueryCanceled):
        store.commit([draft()])
    monkeypatch.setattr(store, "_finish", finish)
    for _ in range(2):
        assert store.recover() == []
        assert store._connection.execute("SHOW statement_timeout").fetchall() == [("200ms",)]
    store.commit([draft()])
    assert store.size == 1
    store.close()


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
