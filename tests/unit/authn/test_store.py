"""The store: what is acknowledged is there after a restart, and nothing foreign or damaged is opened."""

import copy
import pickle
import sqlite3
import stat
from pathlib import Path

import pytest

from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.signing_keys import KeyEncryptionKey
from services.authn.adapters.store import Store
from services.authn.model import Secret
from services.common.errors import Unavailable
from services.common.runtime_errors import StartupError
from tests.unit.authn.support import NOW, make_key, make_user

KEK = KeyEncryptionKey(b"k" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authn.db"


def _bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))


@pytest.mark.req("R9")
async def test_files_are_private_and_durable(path: Path) -> None:
    store = Store.open(path)
    await CredentialStore(store).add_key(make_key()[0])
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


@pytest.mark.req("I2.11")
async def test_a_write_that_fails_changes_nothing(path: Path) -> None:
    record, _ = make_key()
    store = Store.open(path)
    credentials = CredentialStore(store)
    await credentials.add_key(record)
    with store._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE UPDATE ON api_keys BEGIN SELECT RAISE(FAIL, 'x'); END")
        connection.exec_driver_sql("CREATE TRIGGER more BEFORE INSERT ON api_keys BEGIN SELECT RAISE(FAIL, 'x'); END")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await credentials.set_key_enabled(record.id, False)
    with pytest.raises(Unavailable):
        await credentials.bootstrap([make_key()[0]], make_user(), NOW)
    assert credentials.list_keys() == [record]
    assert not credentials.bootstrapped
    store.keys.touch(record.id, NOW)
    await store.write_uses()
    assert store.keys.unwritten == {record.id}, "tried again the next time"
    store.close()


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


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(secret)
