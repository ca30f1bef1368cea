"""What an attacker with one foot in the door tries where logs lie side by side in PostgreSQL."""

import asyncio
import json
import random
import string
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from kubegate.audit.v1 import audit_pb2
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.event import NAME_LIMIT
from services.audit.ports import Draft, Filter
from services.audit.verify import Altered
from services.audit.verify.database import verify_database
from services.audit.writers import CORE
from services.common.errors import InvalidArgument
from services.common.runtime_errors import StartupError
from tests.contract.test_audit_cli import Home
from tests.fakes.audit_rig import event as wire_event
from tests.fakes.mesh import Mesh
from tests.fakes.postgres import Postgres
from tests.unit.audit.support import NOW, draft, event, signer


@pytest.mark.req("R23", "I4.4", "I4.7")
def test_no_event_is_hidden_behind_another_of_the_same_id_in_another_log(postgres: Postgres) -> None:
    url = postgres.socket_url()
    east, west = (PostgresStore(url, name, signer(name)) for name in ("east", "west"))
    first = event(action="list_pods")
    east.commit([Draft(first.fields(CORE))])
    west.commit([Draft({**first.fields(CORE), "action": "delete_pod"}), Draft(first.fields("service/authz"))])
    reads = west.reads()
    found = reads.search(Filter(), cursor="", bounds=reads.bounds(), limit=9, descending=False).records
    assert sorted(json.loads(each.canonical_json)["action"] for each in found) == [
        "delete_pod",
        "list_pods",
        "list_pods",
    ]
    assert [each.count for each in reads.count(Filter(), [], 0, 9)] == [3]
    reads.close()
    east.close()
    west.close()


@pytest.mark.req("I4.7", "I4.2")
def test_no_event_is_too_long_for_an_index_and_it_is_found(postgres: Postgres) -> None:
    """PostgreSQL refuses a row whose index key is too long, and with it the whole commit: everybody's events."""
    store = PostgresStore(postgres.socket_url(), "test", signer())
    noise = random.Random(4)
    long = ["".join(noise.choices(string.printable[:94] + "\u00e4\u20ac\U0001f511", k=NAME_LIMIT)) for _ in range(2)]
    store.commit([draft(user=long[0], request_id=long[1]), draft(user=long[0][:-1])])
    reads = store.reads()
    for chosen in ({"user": long[0]}, {"request_id": long[1]}):
        page = reads.page(Filter(chosen), first=0, end=9, limit=9, descending=False)
        assert [record.sequence for record in page] == [0]
    reads.close()
    store.close()


@pytest.mark.req("I4.4")
def test_what_postgresql_cannot_compare_is_refused_in_words(postgres: Postgres) -> None:
    store = PostgresStore(postgres.socket_url(), "test", signer())
    reads = store.reads()
    with pytest.raises(InvalidArgument):
        reads.page(Filter({"user": "\x00"}), first=0, end=9, limit=9, descending=False)
    assert reads.page(Filter(), first=0, end=9, limit=9, descending=False) == []
    reads.close()
    store.close()


FOREIGN = {
    "row policy": [
        "ALTER TABLE audit_events_default ENABLE ROW LEVEL SECURITY",
    ],
    "rule": ["CREATE RULE quiet AS ON INSERT TO audit_events WHERE NEW.\"user\" = 'm' DO INSTEAD NOTHING"],
    "trigger": [
        "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER quiet BEFORE INSERT ON audit_event_keys FOR EACH ROW EXECUTE FUNCTION quiet()",
    ],
    "no table": [
        "ALTER TABLE audit_events RENAME TO kept",
        "CREATE VIEW audit_events AS SELECT * FROM kept WHERE current_setting('transaction_read_only') = 'off'",
    ],
    "key": ["ALTER TABLE audit_event_keys DROP CONSTRAINT audit_event_keys_pkey"],
}


@pytest.mark.req("R23", "I4.7")
@pytest.mark.parametrize("what", FOREIGN)
def test_what_shows_one_reader_other_rows_than_another_is_found(postgres: Postgres, what: str) -> None:
    url = postgres.socket_url()
    store = PostgresStore(url, "test", signer())
    store.commit([draft()])
    store.close()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in FOREIGN[what]:
            connection.execute(statement.encode())
    with pytest.raises(Altered, match=what):
        verify_database(url, "test", signer().verifier)
    with pytest.raises(StartupError, match=what):
        PostgresStore(url, "test", signer())


@pytest.mark.req("I4.4", "I4.7")
async def test_the_whole_log_is_exported_in_its_order_whatever_the_clocks_of_writers_say(
    postgres: Postgres, tmp_path: Path
) -> None:
    home = Home(Mesh(tmp_path / "mesh"), tmp_path / "home")
    home.database = postgres.socket_url()
    await home.serve_surroundings()
    await home.start()
    home.write_home(home.home)
    for n in range(3):
        message = wire_event()
        message.timestamp.FromSeconds(message.timestamp.seconds - 60 * n)
        await home.append("service/mcp-core", message)
    file = tmp_path / "export.jsonl"
    assert "3 events" in await home.run("export", str(file))
    assert "intact: 3 events" in await home.run("verify", str(file))
    # A replica's event with a large number must not move where a tail goes on.
    west = await asyncio.to_thread(PostgresStore, home.database, "west", signer("west"))
    west.commit([draft(timestamp=NOW + timedelta(days=9)) for _ in range(300)])
    west.close()
    tail = await home.launch("tail", "-n", "1", "--type", "mcp_request", "--json")
    assert tail.stdout is not None
    await tail.stdout.readline()
    while not await home.query(filter=audit_pb2.Filter(action="audit.Tail")):
        await asyncio.sleep(0.05)
    await home.append("service/mcp-core", wire_event(resource="pods/late"))
    assert json.loads(await tail.stdout.readline())["resource"] == "pods/late"
    tail.terminate()
    await tail.wait()
    await home.stop()
    await home.stop_surroundings()
