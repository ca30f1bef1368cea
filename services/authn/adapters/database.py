"""Opens the SQLite file: private, checked before it is touched, of this application and schema version."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from services.authn.adapters import schema
from services.common.runtime_errors import StartupError


def open_database(path: Path) -> Engine:
    """The engine of a store whose tables are there.

    Raises:
        StartupError: it cannot be opened, or is damaged, foreign or of another version. Nothing was written.
    """
    try:
        # Made by us, so that it is private from its first byte; SQLite's side files take its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        new = _inspect(path)
    except OSError as error:
        raise StartupError(f"{path}: the credential store cannot be opened ({error.strerror})") from error
    except sqlite3.Error as error:
        raise _damaged(path) from error
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})
    event.listen(engine, "connect", _configure)
    if new:
        try:
            with engine.begin() as connection:
                schema.metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version = {schema.VERSION}")
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StartupError(f"{path}: the credential store cannot be made; is the disk full?") from error
    return engine


def _inspect(path: Path) -> bool:
    """Whether the file is empty; raises where it is not ours."""
    connection = sqlite3.connect(path, timeout=5)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            return True
        if application == 0 and {row[0] for row in connection.execute(_TABLES)} <= set(schema.metadata.tables):
            # Our own making of the tables was interrupted before the mark that completes it.
            return True
        if application != schema.APPLICATION_ID:
            raise StartupError(f"{path}: this is a database of another application; name another file as `store`")
        if version != schema.VERSION:
            raise StartupError(
                f"{path}: the credential store has schema version {version}, this kubegate reads version "
                f"{schema.VERSION}; run the version of kubegate that wrote it"
            )
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _damaged(path)
    finally:
        connection.close()
    return False


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


def _damaged(path: Path) -> StartupError:
    return StartupError(
        f"{path}: the credential store is damaged or not a SQLite database; restore it from a backup, or move "
        "it away to start with an empty one (every credential in it is lost then)"
    )


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
