"""Deep health: a store that cannot be written is known before somebody's change finds out (I9.14)."""

import sqlite3
from pathlib import Path

import pytest

from services.authn.adapters.store import Store
from services.authz.adapters.sqlite_store import SqliteStore
from services.authz.ports import Adopted
from services.common.writable import WritableProbe


def break_writes(path: Path, table: str, when: str) -> None:
    """From now on SQLite refuses every update of a table, as it does on a full disk."""
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TRIGGER broken {when} ON {table} BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    connection.close()


def mend(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER broken")
    connection.close()


@pytest.mark.req("I9.14")
async def test_authz_notices_that_its_store_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "authz.db"
    store = SqliteStore(path)
    await store.adopted(Adopted("r1"), b"")
    probe = WritableProbe(store.touch)
    try:
        await probe.look()
        assert probe.problems() == []
        break_writes(path, "revisions", "BEFORE UPDATE")
        await probe.look()
        assert probe.problems() == [
            "store: The authorization store failed. Nothing was changed; try again shortly.",
        ]
        mend(path)
        await probe.look()
        assert probe.problems() == []
        # Nothing was changed by all that: what is decided under a revision is not told apart by it.
        assert await store.revision() == 1
    finally:
        await store.close()


@pytest.mark.req("I9.14")
async def test_authn_notices_that_its_store_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "authn.db"
    store = Store.open(path)
    store.bind_pepper("v1")
    probe = WritableProbe(store.touch)
    try:
        await probe.look()
        assert probe.problems() == []
        break_writes(path, "settings", "BEFORE UPDATE")
        await probe.look()
        assert probe.problems() == ["store: The credential store cannot be written; nothing was changed."]
        mend(path)
        await probe.look()
        assert probe.problems() == []
        assert await store.current() == store.mirror.revision
    finally:
        store.close()
