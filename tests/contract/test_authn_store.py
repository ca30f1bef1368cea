"""One suite for both engines: SQLite in a file, and a real PostgreSQL on loopback."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from services.authn.adapters import database, history, schema
from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.database import checked_url, open_database
from services.authn.adapters.issuer_store import IssuerStore
from services.authn.adapters.key_ring import Schedule, open_ring
from services.authn.adapters.logins import THRESHOLD, LoginStore
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose, generate, sealed
from services.authn.adapters.store import Store
from services.authn.adapters.token_store import RefreshTokenStore, RevokedTokens
from services.authn.adapters.user_store import UserStore
from services.authn.errors import Reason, Rejected
from services.authn.model import NamespaceScope, Principal, Secret, TrustedIssuer
from services.common.errors import Unavailable
from services.common.runtime_errors import StartupError
from tests.fakes.clock import FakeClock
from tests.fakes.postgres import Postgres
from tests.unit.authn.support import KEK, NOW, PEPPER, make_key, make_user

SCHEDULE = Schedule(timedelta(days=30), timedelta(days=1), timedelta(hours=2))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres.find()
    try:
        server.start()
        yield server
    finally:
        server.remove()


class Target:
    """One store that may be opened again and again."""

    def __init__(self, target: Path | str, password: str) -> None:
        self.target, self.password = target, password
        self.clock = FakeClock(NOW)
        self.opened: list[Store] = []

    def open(self) -> Store:
        store = Store.open(self.target, self.clock, password=self.password)
        self.opened.append(store)
        return store

    def reopen(self) -> Store:
        """As after a restart."""
        self.close()
        return self.open()

    def close(self) -> None:
        for store in self.opened:
            store.close()
        self.opened = []


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "sqlite":
        target = Target(tmp_path / "authn.db", "")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        target = Target(server.database(), server.password)
    yield target
    target.close()


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


@pytest.mark.req("R9", "I2.11")
def test_a_store_knows_its_pepper(target: Target) -> None:
    store = target.open()
    store.bind_pepper("version-1")
    store.bind_pepper("version-1")
    with pytest.raises(StartupError, match="pepper_file"):
        store.bind_pepper("version-2")


@pytest.mark.req("R9", "I3.7")
async def test_signing_keys_lie_encrypted_and_come_back(target: Target) -> None:
    store = target.open()
    access, _ = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    principal, _ = await open_ring(store, KEK, Purpose.PRINCIPAL, target.clock, SCHEDULE)
    assert access.current.kid != principal.current.kid
    assert principal.find_signing(access.current.kid) is None
    secret = access.current.private.private_bytes_raw()
    assert all(secret not in key.sealed for key in store.mirror.signing_keys.values())
    again, _ = await open_ring(target.reopen(), KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    assert again.current.kid == access.current.kid
    assert again.jwks() == access.jwks()
    assert '"d"' not in access.jwks()
    assert "private" not in repr(again.current)


@pytest.mark.req("R9", "I2.11")
async def test_another_kek_or_an_exchanged_row_is_refused(target: Target) -> None:
    store = target.open()
    ring, _ = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    with pytest.raises(StartupError, match="kek_file"):
        await open_ring(store, KeyEncryptionKey(b"other" * 8), Purpose.ACCESS, target.clock, SCHEDULE)
    (stored,) = ring.sealed()
    moved = replace(stored, kid="kid-2", purpose=Purpose.PRINCIPAL)
    with store._engine.begin() as connection:
        connection.execute(schema.signing_keys.insert().values(schema.sealed_key_row(moved)))
    with pytest.raises(StartupError, match="kek_file"):
        await open_ring(target.reopen(), KEK, Purpose.PRINCIPAL, target.clock, SCHEDULE)


def _tables(engine: Any) -> dict[str, Any]:
    found = inspect(engine)
    return {
        table: (
            {column["name"]: (str(column["type"]), column["nullable"]) for column in found.get_columns(table)},
            found.get_pk_constraint(table)["constrained_columns"],
            sorted(tuple(index["column_names"]) for index in found.get_indexes(table)),
        )
        for table in found.get_table_names()
        if table != "alembic_version"
    }


@pytest.mark.req("I3.10")
def test_the_steps_lead_to_the_tables_that_the_code_knows(target: Target, tmp_path: Path) -> None:
    migrated = target.open()._engine
    if migrated.dialect.name == "sqlite":
        declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
        schema.metadata.create_all(declared)
        assert _tables(declared) == _tables(migrated)
    else:
        before = _tables(migrated)
        schema.metadata.drop_all(migrated)
        schema.metadata.create_all(migrated)
        assert _tables(migrated) == before


@pytest.mark.req("I3.10")
async def test_a_store_of_the_first_slice_is_migrated_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "authn.db"
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parents[1] / "golden" / "authn-v1.sql").read_text())
    connection.close()
    store = Store.open(path)
    assert [key.identity for key in CredentialStore(store).list_keys()] == ["admin"]
    assert list(store.users.records) == ["admin"]
    assert store.users.records["admin"].generation == 0
    assert [key.algorithm for key in store.mirror.signing_keys.values()] == ["EdDSA"]
    assert CredentialStore(store).bootstrapped
    store.close()
    Store.open(path).close()


@pytest.mark.req("I3.10", "I2.11")
def test_an_interrupted_migration_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "authn.db"
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parents[1] / "golden" / "authn-v1.sql").read_text())
    connection.close()
    before = _dump(path)
    whole = database.migrate

    def interrupted(connection: Any, stamped: str) -> None:
        whole(connection, stamped)
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(database, "migrate", interrupted)
    with pytest.raises(StartupError, match="disk full"):
        Store.open(path)
    assert _dump(path) == before
    monkeypatch.undo()
    Store.open(path).close()


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"), "9999"),
        (lambda connection: connection.exec_driver_sql("DROP TABLE alembic_version"), "another application"),
    ],
)
def test_a_foreign_or_newer_postgresql_store_is_refused(
    postgres: Postgres, spoil: Callable[[Any], None], message: str
) -> None:
    target = Target(postgres.database(), postgres.password)
    store = target.open()
    with store._engine.begin() as connection:
        spoil(connection)
    target.close()
    with pytest.raises(StartupError, match=message) as caught:
        target.open()
    assert postgres.password not in str(caught.value)


@pytest.mark.req("I2.11")
def test_a_postgresql_that_refuses_or_is_away_is_named_without_its_password(postgres: Postgres) -> None:
    url = postgres.database()
    for each, password in ((url, "wrong-password"), (url.replace(str(postgres.port), "1"), postgres.password)):
        with pytest.raises(StartupError, match="cannot be opened") as caught:
            Store.open(each, password=password)
        assert password not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)
    with pytest.raises(ValueError, match="store_password_file"):
        checked_url("postgresql://kubegate:secret@db/authn")
    with pytest.raises(ValueError, match="neither a path nor"):
        checked_url("mysql://db/authn")
    engine = open_database(checked_url(url).set(password=postgres.password))
    engine.dispose()


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


@pytest.mark.req("R12", "I3.13")
async def test_a_sqlite_file_that_cannot_be_read_answers_no_lease(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "authn.db")
    with store._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE head RENAME TO gone")
    with pytest.raises(Unavailable):
        await store.since(1)
    store.close()


@pytest.mark.req("I3.7")
async def test_signing_keys_rotate_by_the_clock_without_a_gap(target: Target) -> None:
    store = target.open()
    ring, rotation = await open_ring(store, KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    first = ring.current.kid

    def states() -> dict[str, str]:
        return {key.kid: ring.state(key) for key in ring.sealed()}

    await rotation.maintain()
    assert states() == {first: "current"}
    target.clock.advance(29 * 86_400)
    await rotation.maintain()
    await rotation.maintain()
    (following,) = set(states()) - {first}
    assert states() == {first: "current", following: "next"}
    assert ring.jwks().count('"kid"') == 2, "published before it signs"
    target.clock.advance(86_400)
    assert states() == {first: "previous", following: "current"}
    await rotation.maintain()
    assert first in states(), "what it signed may still live"
    target.clock.advance(2 * 3600)
    await rotation.maintain()
    assert states() == {following: "current"}
    now = await rotation.rotate()
    assert states() == {following: "previous", now.kid: "current"}
    again, _ = await open_ring(target.reopen(), KEK, Purpose.ACCESS, target.clock, SCHEDULE)
    assert again.current.kid == now.kid


@pytest.mark.req("I3.2")
@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_the_algorithm_is_the_keys(tmp_path: Path, algorithm: str) -> None:
    key = sealed(generate(algorithm), KEK, Purpose.ACCESS, NOW, NOW)
    target = Target(tmp_path / "authn.db", "")
    with target.open()._engine.begin() as connection:
        connection.execute(schema.signing_keys.insert().values(schema.sealed_key_row(key)))
    store = target.reopen()
    ring, _ = await open_ring(store, KEK, Purpose.ACCESS, target.clock, replace(SCHEDULE, algorithm=algorithm))
    assert (ring.current.kid, ring.current.algorithm) == (key.kid, algorithm)
    assert f'"alg": "{algorithm}"' in ring.jwks()
    assert not {'"d"', '"p"', '"q"'} & set(ring.jwks().split())
    # Another algorithm is configured: the next key has it, this one goes on until then.
    changed = replace(SCHEDULE, algorithm="ES256" if algorithm == "EdDSA" else "EdDSA")
    await open_ring(store, KEK, Purpose.ACCESS, target.clock, changed)
    assert [each.algorithm for each in ring.sealed()] == [algorithm, changed.algorithm]
    assert ring.current.kid == key.kid
    target.close()


@pytest.mark.req("I3.3")
async def test_lock_outs_back_off_and_outlive_a_restart(target: Target) -> None:
    logins = LoginStore(target.open(), PEPPER)
    for _ in range(THRESHOLD - 1):
        await logins.failed("admin", NOW)
        assert not await logins.locked("admin", NOW)
    waits = []
    for _ in range(8):
        await logins.failed("admin", NOW)
        until = await logins.locked_until("admin")
        assert until is not None
        waits.append((until - NOW).total_seconds())
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]
    logins = LoginStore(target.reopen(), PEPPER)
    assert await logins.locked("admin", NOW + timedelta(seconds=899))
    assert not await logins.locked("admin", NOW + timedelta(seconds=900))
    assert not await logins.succeeded("admin", NOW, None), "a lock that came in between counts"
    assert await logins.succeeded("admin", NOW + timedelta(hours=1), None)
    await logins.failed("admin", NOW)
    assert not await logins.locked("admin", NOW), "a success starts the count anew"


@pytest.mark.req("I3.3")
async def test_strangers_share_rows_and_are_locked_like_users(target: Target) -> None:
    logins = LoginStore(target.open(), PEPPER)
    name = logins.row_of_stranger("nobody")
    assert name == logins.row_of_stranger("nobody")
    assert "nobody" not in name
    assert len({logins.row_of_stranger(f"n{number}") for number in range(20_000)}) <= 4096
    for _ in range(THRESHOLD):
        await logins.failed(name, NOW)
    assert await logins.locked(name, NOW)


@pytest.mark.req("I3.3")
async def test_used_steps_and_recovery_codes_stay_used(target: Target) -> None:
    store = target.open()
    logins = LoginStore(store, PEPPER)
    users = UserStore(store, logins)
    assert await users.add(make_user())
    await users.enrol("admin", b"sealed", [Secret("AAAA-BBBB"), Secret("CCCC-DDDD")])
    assert await logins.succeeded("admin", NOW, 100)
    assert not await logins.succeeded("admin", NOW, 100)
    assert not await logins.succeeded("admin", NOW, 99)
    both = await asyncio.gather(*(logins.succeeded("admin", NOW, 101) for _ in range(2)))
    assert sorted(both) == [False, True]
    assert await logins.use_recovery_code("admin", "aaaa bbbb", NOW)
    logins = LoginStore(target.reopen(), PEPPER)
    assert not await logins.use_recovery_code("admin", "AAAA-BBBB", NOW)
    assert not await logins.use_recovery_code("bob", "CCCC-DDDD", NOW)
    assert not await logins.succeeded("admin", NOW, 101)
    assert await logins.use_recovery_code("admin", "CCCC-DDDD", NOW)


@pytest.mark.req("I3.6", "R12")
async def test_what_is_taken_from_a_user_ends_the_users_tokens(target: Target) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    assert await users.add(make_user())
    assert not await users.add(make_user())
    start = await store.current()
    made = users.find("admin")
    assert made is not None
    disabled = await users.change("admin", ends_tokens=True, enabled=False)
    assert disabled is not None
    assert disabled.generation > made.generation
    assert [name for name, _ in (await store.since(start)).ended] == ["identity:kubegate:admin"]
    assert await users.delete("admin")
    assert not await users.delete("admin")
    assert target.reopen().users.records == {}


@pytest.mark.req("I3.5")
async def test_a_refresh_token_is_good_once_and_its_second_use_ends_the_family(target: Target) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    revoked = RevokedTokens(store, target.clock)
    tokens = RefreshTokenStore(store, PEPPER, revoked, 3600, target.clock)
    first, family = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd", "otp", "mfa")))
    principal, second, same = await tokens.use(first)
    assert (principal.subject, principal.amr, principal.auth_time, same) == (
        "admin",
        ("pwd", "otp", "mfa"),
        NOW,
        family,
    )
    with pytest.raises(Rejected) as caught:
        await tokens.use(first)
    assert caught.value.reason is Reason.REUSED
    assert revoked.is_revoked(family), "access tokens of the family end too"
    for token in (second, Secret("kgr_x"), Secret(second.reveal()[:-1] + "_")):
        with pytest.raises(Rejected):
            await tokens.use(token)
    assert RevokedTokens(target.reopen(), target.clock).is_revoked(family)


@pytest.mark.req("I3.5")
@pytest.mark.parametrize("how", ["expired", "disabled", "password reset", "deleted", "ended", "two at once"])
async def test_a_refresh_token_ends_with_what_it_stands_for(target: Target, how: str) -> None:
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    tokens = RefreshTokenStore(store, PEPPER, RevokedTokens(store, target.clock), 3600, target.clock)
    token, _ = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd",)))
    if how == "expired":
        target.clock.advance(15 * 86_400)
    elif how == "deleted":
        await users.delete("admin")
        await users.add(make_user())
    elif how == "ended":
        await tokens.end(token)
    elif how == "two at once":
        done = await asyncio.gather(*(tokens.use(token) for _ in range(2)), return_exceptions=True)
        assert sorted(isinstance(each, Rejected) for each in done) == [False, True]
    else:
        await users.change("admin", ends_tokens=True, enabled=how != "disabled")
    with pytest.raises(Rejected):
        await tokens.use(token)


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


@pytest.mark.req("I3.5", "R12")
async def test_a_family_that_was_ended_stays_dead_whatever_is_left_of_it(target: Target) -> None:
    """A crash between the two steps, or a refresh by another replica in between, leaves a token of it."""
    store = target.open()
    users = UserStore(store, LoginStore(store, PEPPER))
    await users.add(make_user())
    user = users.find("admin")
    assert user is not None
    revoked = RevokedTokens(store, target.clock)
    tokens = RefreshTokenStore(store, PEPPER, revoked, 3600, target.clock)
    token, family = await tokens.start(user.principal("password", "password:admin", NOW, ("pwd",)))
    rows = await store.read(lambda connection: connection.execute(schema.refresh_tokens.select()).all())
    ended = await tokens.end(token)
    assert ended is not None
    assert (ended.user, ended.family) == ("admin", family)
    await store.write(lambda connection: connection.execute(schema.refresh_tokens.insert(), [rows[0]._asdict()]))
    target.clock.advance(13 * 86_400)
    with pytest.raises(Rejected) as caught:
        await tokens.use(token)
    assert caught.value.reason is Reason.REVOKED, "also after the access tokens beside it are long over"
    assert await tokens.end(Secret(token.reveal()[:-1] + "!")) is None


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


@pytest.mark.req("I3.5")
async def test_revoked_tokens_are_forgotten_when_they_are_over(target: Target) -> None:
    store = target.open()
    revoked = RevokedTokens(store, target.clock)
    await revoked.revoke("one", NOW + timedelta(hours=1))
    target.clock.advance(2 * 3600)
    await revoked.revoke("two", NOW + timedelta(hours=3))
    assert set(store.mirror.revoked) == {"two"}


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
