"""Records and revisions of authn's store, one suite for both engines: SQLite, and a real PostgreSQL on loopback."""

import asyncio
import os
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.authn.adapters import history
from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.issuer_store import IssuerStore
from services.authn.adapters.store import Store
from services.authn.model import NamespaceScope, Principal, TrustedIssuer
from services.common.errors import Unavailable
from services.common.postgres import UNANSWERED
from tests.contract.authn_target import Target
from tests.fakes.postgres import Postgres
from tests.unit.authn.support import NOW, make_key, make_user


@pytest.mark.req("I2.1", "I2.3", "I3.10")
async def test_what_is_stored_is_there_after_a_restart(target: Target) -> None:
    record, _ = make_key(
        permissions=("k8s:pods:list",),
        namespaces=NamespaceScope(False, ("dev", "feature-*")),
        tools=("list_pods",),
        tenant="t1",
        expires_at=NOW + timedelta(days=30, microseconds=7),
        certificate_sha256="ab" * 32,
    )
    other, _ = make_key()
    user = make_user(permissions=("kubegate:*",))
    credentials = CredentialStore(target.open())
    await credentials.bootstrap([record, other], user, NOW)
    assert await credentials.set_key_enabled(record.id, False) == replace(record, enabled=False)
    assert await credentials.delete_key(other.id)
    again = target.reopen()
    credentials = CredentialStore(again)
    assert credentials.list_keys() == [replace(record, enabled=False)]
    stored = again.users.find("admin")
    assert stored is not None
    assert replace(stored, generation=0) == user
    assert stored.generation > 0
    assert credentials.bootstrapped
    assert not await credentials.bootstrap([other], user, NOW)


async def test_the_last_use_is_kept_to_the_minute_and_written_later(target: Target) -> None:
    record, _ = make_key()
    store = target.open()
    credentials = CredentialStore(store)
    await credentials.add_key(record)
    store.keys.touch(record.id, NOW + timedelta(seconds=59))
    assert credentials.list_keys()[0].last_used_at == NOW
    assert store.keys.unwritten == {record.id}
    await store.write_uses()
    assert store.keys.unwritten == set()
    store.keys.touch(record.id, NOW + timedelta(seconds=30))
    assert store.keys.unwritten == set(), "one write a minute and key at most"
    assert CredentialStore(target.reopen()).list_keys()[0].last_used_at == NOW


async def test_a_use_never_brings_a_key_back(target: Target) -> None:
    record, _ = make_key()
    store = target.open()
    credentials = CredentialStore(store)
    await credentials.add_key(record)
    await credentials.delete_key(record.id)
    store.keys.touch(record.id, NOW)
    await store.write_uses()
    assert credentials.find_key(record.id) is None
    assert credentials.list_keys() == []


async def test_a_cancelled_write_is_shown_when_it_is_committed(target: Target) -> None:
    record, _ = make_key()
    store = target.open()
    task = asyncio.create_task(CredentialStore(store).add_key(record))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store._writer.shutdown(wait=True)
    shown = store.keys.find(record.id)
    assert target.reopen().keys.find(record.id) == shown


@pytest.mark.req("R12")
async def test_every_change_has_a_revision_of_its_own_and_says_what_ends(target: Target) -> None:
    store = target.open()
    credentials = CredentialStore(store)
    first, _ = make_key()
    second, _ = make_key()
    start = await store.current()
    await credentials.add_key(first)
    await credentials.add_key(second)
    await credentials.set_key_enabled(first.id, False)
    await credentials.set_key_enabled(first.id, True)
    await credentials.delete_key(second.id)
    ends = await store.since(start)
    assert ends.revision == start + 5 == await store.current()
    assert ends.ended == ((first.id, start + 3), (first.id, start + 4), (second.id, start + 5))
    assert not ends.reset
    assert (await store.since(start + 3)).ended == ends.ended[1:]
    assert (await store.since(ends.revision)).ended == ()
    assert (await target.reopen().since(start)) == ends


@pytest.mark.req("R12")
async def test_who_knows_too_little_or_another_history_is_told_to_forget_everything(target: Target) -> None:
    store = target.open()
    credentials = CredentialStore(store)
    first, _ = make_key()
    await credentials.add_key(first)
    known = await store.current()
    for _ in range(3):
        target.clock.advance(400)
        await credentials.set_key_enabled(first.id, False)
    assert (await store.since(known)).reset
    assert (await store.since(await store.current() + 1)).reset
    fresh = await store.since(0)
    assert not fresh.reset, "who knows nothing remembers nothing; what may still matter is told"
    assert len(fresh.ended) == 2


@pytest.mark.req("R12")
async def test_concurrent_changes_get_revisions_in_the_order_of_their_commits(target: Target) -> None:
    store = target.open()
    credentials = CredentialStore(store)
    keys = [make_key()[0] for _ in range(20)]
    await asyncio.gather(*(credentials.add_key(key) for key in keys))
    start = await store.current()
    await asyncio.gather(*(credentials.set_key_enabled(key.id, False) for key in keys))
    ends = await store.since(start)
    assert [revision for _, revision in ends.ended] == list(range(start + 1, start + 21))


@pytest.mark.req("R12", "I3.10")
async def test_replicas_of_one_postgresql_see_each_others_changes(postgres: Postgres) -> None:
    target = Target(postgres.database(), postgres.password)
    one, two = target.open(), target.open()
    record, _ = make_key()
    await CredentialStore(one).add_key(record)
    known = (await two.since(0)).revision
    assert two.keys.find(record.id) == record, "an answer to a ping reads the store first"
    await CredentialStore(one).set_key_enabled(record.id, False)
    assert two.keys.find(record.id) == record, "within the term the mirror is what it was"
    target.clock.advance(1)
    assert await two.current() == known + 1
    found = two.keys.find(record.id)
    assert found is not None
    assert not found.enabled
    # Its own change on top of another's that it has not seen yet.
    await CredentialStore(one).set_key_enabled(record.id, True)
    other, _ = make_key()
    await CredentialStore(two).add_key(other)
    assert await two.current() == known + 3
    assert {key.id: key.enabled for key in CredentialStore(two).list_keys()} == {record.id: True, other.id: True}
    target.close()


@pytest.mark.req("R12", "I3.13")
async def test_without_its_database_a_replica_judges_nothing_and_answers_no_lease(postgres: Postgres) -> None:
    target = Target(postgres.database(), postgres.password)
    store = target.open()
    known = await store.current()
    postgres.stop()
    try:
        with pytest.raises(Unavailable):
            await store.since(known)
        assert await store.current() == known, "the mirror was found right less than a second ago"
        target.clock.advance(1)
        with pytest.raises(Unavailable):
            await store.current()
        with pytest.raises(Unavailable, match="nothing was changed"):
            await CredentialStore(store).add_key(make_key()[0])
    finally:
        postgres.start()
    assert await store.current() == known
    target.close()


@pytest.mark.req("I3.13")
async def test_a_database_behind_a_silent_partition_is_given_up(postgres: Postgres) -> None:
    target = Target(postgres.database(), postgres.password)
    with target.open()._engine.connect() as connection:
        line: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(line.fileno())) as raw:
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNANSWERED["tcp_user_timeout"]
            assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    target.close()


@pytest.mark.req("R12", "I3.13")
async def test_a_sqlite_file_that_cannot_be_read_answers_no_lease(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "authn.db")
    with store._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE head RENAME TO gone")
    with pytest.raises(Unavailable):
        await store.since(1)
    store.close()


@pytest.mark.req("I3.6", "R12")
async def test_issuers_are_kept_and_end_as_a_whole(target: Target) -> None:
    store = target.open()
    asked = TrustedIssuer(
        "https://idp.example", "kubegate", role_map={"ops": "admin"}, default_roles=("viewer",), tenant="t1"
    )
    configured = TrustedIssuer("https://fixed.example", "kubegate", configured=True)
    issuers = IssuerStore(store, [configured])
    assert await issuers.add(asked, NOW)
    assert not await issuers.add(asked, NOW)
    assert not await issuers.add(configured, NOW)
    found = issuers.find("https://idp.example")
    assert found is issuers.find("https://idp.example"), "made once"
    start = await store.current()
    disabled = await issuers.set_enabled("https://idp.example", False)
    assert disabled is not None
    assert not disabled.enabled
    assert (await store.since(start)).ended[0][0] == "issuer:https://idp.example"
    again = IssuerStore(target.reopen(), [configured])
    assert [issuer.issuer for issuer in again.list()] == ["https://fixed.example", "https://idp.example"]
    stored = again.find("https://idp.example")
    assert stored is not None
    assert (stored.role_map, stored.default_roles, stored.tenant) == ({"ops": "admin"}, ("viewer",), "t1")
    assert await again.delete("https://idp.example")
    assert again.find("https://idp.example") is None


@pytest.mark.req("I3.13", "R12")
async def test_what_ended_is_known_however_much_ended(target: Target) -> None:
    store = target.open()
    start = await store.current()
    names = [f"k{number}" for number in range(history.MAX_ANSWER + 2)]
    await store.change(lambda _connection, _revision: lambda: None, names)
    assert store.ended_since(["k0"], start)
    again = target.reopen()
    assert again.ended_since(["k0"], start), "after a restart too"
    assert not again.ended_since(["other"], start)
    target.clock.advance(history.KEPT.total_seconds() + 1)
    await again.change(lambda _connection, _revision: lambda: None, ["last"])
    assert set(again.mirror.ended) == {"last"}, "what no principal token can concern any more is forgotten"


@pytest.mark.req("I3.3", "R15")
async def test_whoever_a_certificate_stands_for_needs_no_record_to_be_alive(target: Target) -> None:
    credentials = CredentialStore(target.open())
    principal = Principal(
        "ops", "sha256:ab", "certificate", NOW, roles=("admin",), expires_at=NOW + timedelta(minutes=1)
    )
    assert credentials.alive(principal, 0, NOW)
    assert not credentials.alive(principal, 0, NOW + timedelta(minutes=1))


@pytest.mark.req("I3.7")
async def test_a_key_that_another_replica_uses_is_not_unused(target: Target) -> None:
    if isinstance(target.target, Path):
        pytest.skip("SQLite has one process")
    mine, other = target.open(), target.open()
    credentials = CredentialStore(mine)
    old = NOW - timedelta(days=100)
    used, unused, fresh = (make_key(created_at=at)[0] for at in (old, old, NOW))
    for key in (used, unused, fresh):
        await credentials.add_key(key)
    await other.sync()
    other.keys.touch(used.id, NOW)
    await other.write_uses()
    since = NOW - timedelta(days=90)
    assert [key.id for key in await credentials.find_unused(since, 10)] == [unused.id]
    mine.keys.touch(unused.id, NOW)
    assert await credentials.find_unused(since, 10) == [], "nor what was used a moment ago"
