"""Opens the store: a private SQLite file, or PostgreSQL by URL; checked before it is touched, then migrated.

Migrations are Alembic's. The number of the newest step is the version of the schema, on SQLite also its
``user_version``.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from services.authn.adapters import schema
from services.common.postgres import UNANSWERED
from services.common.runtime_errors import StartupError

POSTGRES = "postgresql"
_MIGRATION_LOCK = 0x6B674E31
_NAMES = [f"{number:04}" for number in range(1, schema.VERSION + 1)]


def is_url(target: str) -> bool:
    """Whether a store is named by URL; everything else is a path."""
    return "://" in target


def checked_url(target: str) -> URL:
    """The URL of a PostgreSQL store.

    Raises:
        ValueError: it is none, or carries a password.
    """
    try:
        url = make_url(target)
    except ArgumentError:
        raise ValueError("is not a URL such as postgresql://kubegate@db.example/authn") from None
    if url.get_backend_name() != POSTGRES:
        raise ValueError("is neither a path nor a postgresql:// URL")
    if url.password is not None or "password" in url.query:
        raise ValueError("must not hold the password; put it in a file and name that as store_password_file")
    return url.set(drivername="postgresql+psycopg")


def open_database(target: Path | URL) -> Engine:
    """The engine of a store whose tables are there and of this version.

    Raises:
        StartupError: it cannot be opened, or is damaged, foreign or of another version. Nothing was written.
    """
    return _open_postgres(target) if isinstance(target, URL) else _open_sqlite(target)


def _open_postgres(url: URL) -> Engine:
    options = "-c synchronous_commit=on -c statement_timeout=5000 -c lock_timeout=5000 -c timezone=UTC"
    engine = create_engine(url, pool_pre_ping=True, connect_args={**UNANSWERED, "options": options})
    place = url.set(password=None).render_as_string()
    try:
        with engine.begin() as connection:
            # One replica migrates, the others wait for it.
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            tables = set(inspect(connection).get_table_names())
            version = ""
            if "alembic_version" in tables:
                version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""
                if version not in _NAMES:
                    raise StartupError(_other_version(place, version))
            elif tables & set(schema.metadata.tables):
                raise StartupError(f"{place}: this is a database of another application; name another one as `store`")
            if version != _NAMES[-1]:
                migrate(connection, stamped=version)
    except SQLAlchemyError as error:
        engine.dispose()
        # The driver's text may repeat what it was given; the class says enough.
        raise StartupError(
            f"{place}: the credential store cannot be opened ({type(error).__name__}); check that PostgreSQL runs "
            "there, that the database exists, and that user and store_password_file are right"
        ) from error
    except StartupError:
        engine.dispose()
        raise
    return engine


def _open_sqlite(path: Path) -> Engine:
    try:
        # Made by us, so that it is private from its first byte; SQLite's side files take its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        version = _inspect(path)
    except OSError as error:
        raise StartupError(f"{path}: the credential store cannot be opened ({error.strerror})") from error
    except sqlite3.Error as error:
        raise _damaged(path) from error
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 5})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    if version != schema.VERSION:
        try:
            with engine.begin() as connection:
                migrate(connection, stamped=_NAMES[version - 1] if version else "")
                connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version = {schema.VERSION}")
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StartupError(f"{path}: the credential store cannot be made; is the disk full?") from error
    return engine


def migrate(connection: Connection, stamped: str) -> None:
    """Runs the steps that are missing, in the caller's transaction. ``stamped``: the step that it is at."""
    # Alembic is needed once in the life of a version: its import costs more than an ordinary start.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "services.authn:migrations")
    config.attributes["connection"] = connection
    if stamped:
        command.stamp(config, stamped)
    command.upgrade(config, "head")


def _inspect(path: Path) -> int:
    """The version of a file's schema, 0 where it is empty; raises where it is not ours."""
    connection = sqlite3.connect(path, timeout=5)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            return 0
        if application != schema.APPLICATION_ID:
            raise StartupError(f"{path}: this is a database of another application; name another file as `store`")
        if not 1 <= version <= schema.VERSION:
            raise StartupError(_other_version(str(path), str(version)))
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _damaged(path)
    finally:
        connection.close()
    return version


def _other_version(place: str, version: str) -> str:
    return (
        f"{place}: the credential store has schema version {version}, this kubegate reads versions 1 to "
        f"{schema.VERSION}; run the version of kubegate that wrote it"
    )


def _damaged(path: Path) -> StartupError:
    return StartupError(
        f"{path}: the credential store is damaged or not a SQLite database; restore it from a backup, or move "
        "it away to start with an empty one (every credential in it is lost then)"
    )


def _configure(connection: Any, _record: object) -> None:
    # Transactions are begun by us, so that a migration, DDL included, is made wholly or not at all.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
