"""The store: what is acknowledged is there after a restart, and nothing foreign or damaged is opened."""

import asyncio
import copy
import pickle
import sqlite3
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.authn.adapters import schema
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose, SealedKey, open_ring
from services.authn.adapters.store import Store
from services.authn.model import NamespaceScope, Secret
from services.common.errors import Unavailable
from services.common.runtime_errors import StartupError
from tests.unit.authn.support import NOW, make_key, make_user

KEK = KeyEncryptionKey(b"k" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authn.db"


@pytest.mark.req("I2.1", "I2.3")
async def test_what_is_stored_is_there_after_a_restart(path: Path) -> None:
    record, text = make_key(
        permissions=("k8s:pods:list",),
        namespaces=NamespaceScope(False, ("dev", "feature-*")),
        tools=("list_pods",),
        tenant="t1",
        expires_at=NOW + timedelta(days=30, microseconds=7),
    )
    other, _ = make_key()
    user = make_user(permissions=("kubegate:*",))
    store = Store.open(path)
    await store.bootstrap([record, other], user, NOW)
    disabled = await store.set_key_enabled(record.id, False)
    assert disabled == replace(record, enabled=False)
    assert await store.delete_key(other.id)
    store.close()
    again = Store.open(path)
    assert again.list_keys() == [replace(record, enabled=False)]
    assert again.users.find("admin") == user
    assert again.bootstrapped
    assert not await again.bootstrap([other], user, NOW)
    again.close()
    assert text.rpartition("_")[2].encode() not in _bytes(path)


def _bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))


@pytest.mark.req("R9")
async def test_files_are_private_and_durable(path: Path) -> None:
    store = Store.open(path)
    await store.add_key(make_key()[0])
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


async def test_the_last_use_is_kept_to_the_minute_and_written_later(path: Path) -> None:
    record, _ = make_key()
    store = Store.open(path)
    await store.add_key(record)
    store.keys.touch(record.id, NOW + timedelta(seconds=59))
    assert store.list_keys()[0].last_used_at == NOW
    assert store.keys.unwritten == {record.id}
    await store.write_uses()
    assert store.keys.unwritten == set()
    store.keys.touch(record.id, NOW + timedelta(seconds=30))
    assert store.keys.unwritten == set(), "one write a minute and key at most"
    store.close()
    again = Store.open(path)
    assert again.list_keys()[0].last_used_at == NOW
    again.close()


async def test_a_use_never_brings_a_key_back(path: Path) -> None:
    record, _ = make_key()
    store = Store.open(path)
    await store.add_key(record)
    await store.delete_key(record.id)
    store.keys.touch(record.id, NOW)
    await store.write_uses()
    assert store.find_key(record.id) is None
    assert store.list_keys() == []
    store.close()


@pytest.mark.req("I2.11")
async def test_a_write_that_fails_changes_nothing(path: Path) -> None:
    record, _ = make_key()
    store = Store.open(path)
    await store.add_key(record)
    with store._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(FAIL, 'x'); END")
        connection.exec_driver_sql("CREATE TRIGGER more BEFORE INSERT ON api_keys BEGIN SELECT RAISE(FAIL, 'x'); END")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await store.set_key_enabled(record.id, False)
    with pytest.raises(Unavailable):
        await store.bootstrap([make_key()[0]], make_user(), NOW)
    assert store.list_keys() == [record]
    assert not store.bootstrapped
    store.keys.touch(record.id, NOW)
    await store.write_uses()
    assert store.keys.unwritten == {record.id}, "tried again the next time"
    store.close()


async def test_a_cancelled_write_is_shown_when_it_is_committed(path: Path) -> None:
    record, _ = make_key()
    store = Store.open(path)
    task = asyncio.create_task(store.add_key(record))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store._writer.shutdown(wait=True)
    shown = store.find_key(record.id)
    store.close()
    again = Store.open(path)
    assert again.find_key(record.id) == shown
    again.close()


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


def _pragma(path: Path, statement: str) -> None:
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def _spoil(path: Path) -> None:
    Store.open(path).close()
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xa5" * 8192
    path.write_bytes(content)


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "damaged or not a SQLite database"),
        (_spoil, "damaged"),
        (_foreign, "another application"),
        (lambda path: _pragma(path, "PRAGMA application_id = 7"), "another application"),
        (lambda path: _pragma(path, "PRAGMA user_version = 99"), "schema version 99"),
        (lambda path: path.mkdir(), "cannot be opened"),
    ],
)
def test_what_is_not_our_sound_store_is_refused_and_left_alone(path: Path, damage: object, message: str) -> None:
    damage(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StartupError, match=message) as caught:
        Store.open(path)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before
    # The lock is free again.
    path.unlink() if path.is_file() else path.rmdir()
    for side in path.parent.glob("authn.db-*"):
        side.unlink()
    Store.open(path).close()


@pytest.mark.req("I2.11")
def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="make its directory"):
        Store.open(tmp_path / "nowhere" / "authn.db")


@pytest.mark.req("I2.11")
def test_two_processes_never_share_a_store(path: Path) -> None:
    store = Store.open(path)
    with pytest.raises(StartupError, match="another authn process"):
        Store.open(path)
    store.close()
    Store.open(path).close()


def test_a_store_whose_making_was_interrupted_is_made_whole(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE settings (name VARCHAR PRIMARY KEY, value VARCHAR)")
    connection.commit()
    connection.close()
    Store.open(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    connection.close()


@pytest.mark.req("R9", "I2.11")
def test_a_store_knows_its_pepper(path: Path) -> None:
    store = Store.open(path)
    store.bind_pepper("version-1")
    store.bind_pepper("version-1")
    with pytest.raises(StartupError, match="pepper_file"):
        store.bind_pepper("version-2")
    store.close()


@pytest.mark.req("R9")
def test_signing_keys_lie_encrypted_and_come_back(path: Path) -> None:
    store = Store.open(path)
    access = open_ring(store, KEK, Purpose.ACCESS, NOW)
    principal = open_ring(store, KEK, Purpose.PRINCIPAL, NOW)
    assert access.current.kid != principal.current.kid
    assert principal.public(access.current.kid) is None
    again = open_ring(store, KEK, Purpose.ACCESS, NOW)
    assert again.current.kid == access.current.kid
    assert again.jwks == access.jwks
    assert '"d"' not in access.jwks
    store.close()
    for ring in (access, principal):
        assert ring.current.private.private_bytes_raw() not in _bytes(path)
        assert "private" not in repr(ring.current)


@pytest.mark.req("R9", "I2.11")
def test_another_kek_or_an_exchanged_row_is_refused(path: Path) -> None:
    store = Store.open(path)
    open_ring(store, KEK, Purpose.ACCESS, NOW)
    with pytest.raises(StartupError, match="kek_file"):
        open_ring(store, KeyEncryptionKey(b"other" * 8), Purpose.ACCESS, NOW)
    (sealed,) = store.signing_keys()
    store.add_signing_key(SealedKey("kid-2", Purpose.PRINCIPAL, NOW, sealed.kek_version, sealed.sealed))
    with pytest.raises(StartupError, match="kek_file"):
        open_ring(store, KEK, Purpose.PRINCIPAL, NOW)
    store.close()


def test_the_newest_key_signs_and_all_verify(path: Path) -> None:
    store = Store.open(path)
    first = open_ring(store, KEK, Purpose.ACCESS, NOW)
    private = Ed25519PrivateKey.generate().private_bytes_raw()
    later = NOW + timedelta(days=1)
    store.add_signing_key(SealedKey("k2", Purpose.ACCESS, later, KEK.version, KEK.seal("k2", Purpose.ACCESS, private)))
    ring = open_ring(store, KEK, Purpose.ACCESS, NOW)
    assert ring.current.kid == "k2"
    assert ring.public(first.current.kid) is not None
    store.close()


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(secret)
