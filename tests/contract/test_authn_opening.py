"""Opening authn's store: what it is tied to, its migrations, what is refused."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from services.authn.adapters import database, schema
from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.database import checked_url, open_database
from services.authn.adapters.store import Store
from services.common.runtime_errors import StartupError
from tests.contract.authn_target import Target
from tests.fakes.postgres import Postgres


@pytest.mark.req("R9", "I2.11")
def test_a_store_knows_its_pepper(target: Target) -> None:
    store = target.open()
    store.bind_pepper("version-1")
    store.bind_pepper("version-1")
    with pytest.raises(StartupError, match="pepper_file"):
        store.bind_pepper("version-2")


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
