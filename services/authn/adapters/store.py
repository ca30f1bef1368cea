"""authn's store: SQLite (WAL, synchronous=FULL) with a mirror of its records in memory.

Reading never waits and costs the same for known and unknown names, for every record is in memory. That is
right as long as this process is the only writer, which a lock on the file makes sure of. A change is written
in a thread, committed, and then seen in the mirror, all in one step that no cancellation divides; only that
thread changes the mirror.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from services.authn.adapters import schema
from services.authn.adapters.database import open_database
from services.authn.adapters.signing_keys import SealedKey
from services.authn.model import ApiKey, Principal, User
from services.common.errors import Unavailable
from services.common.log import get_logger
from services.common.runtime_errors import StartupError

T = TypeVar("T")

log = get_logger("store")


class KeyTable:
    """API keys as the authenticator sees them. Uses are kept apart from the records, which it never writes."""

    def __init__(self) -> None:
        self.records: dict[str, ApiKey] = {}
        self.used: dict[str, datetime] = {}
        self.unwritten: set[str] = set()

    def find(self, key_id: str) -> ApiKey | None:
        return self.records.get(key_id)

    def touch(self, key_id: str, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        if self.used.get(key_id) != minute:
            self.used[key_id] = minute
            self.unwritten.add(key_id)

    def described(self, key: ApiKey) -> ApiKey:
        """The record with its newest use."""
        used = self.used.get(key.id)
        return replace(key, last_used_at=used) if used is not None else key


class UserTable:
    """Users as the authenticators see them."""

    def __init__(self) -> None:
        self.records: dict[str, User] = {}

    def find(self, name: str) -> User | None:
        return self.records.get(name)


class Store:
    """Everything that authn keeps."""

    def __init__(self, engine: Engine, lock: int) -> None:
        self._engine = engine
        self._lock = lock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.keys = KeyTable()
        self.users = UserTable()
        self._bootstrapped = False

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Opens the store, making it where there is none, and reads it.

        Raises:
            StartupError: another process has it, or it is damaged, foreign or of another version.
        """
        lock = _lock(path)
        try:
            store = cls(open_database(path), lock)
            with store._engine.connect() as connection:
                store._load(connection)
        except StartupError:
            os.close(lock)
            raise
        except (SQLAlchemyError, ValueError, TypeError) as error:
            os.close(lock)
            raise StartupError(
                f"{path}: a record in the credential store cannot be read; restore the file from a backup"
            ) from error
        return store

    def _load(self, connection: Connection) -> None:
        keys = map(schema.api_key, connection.execute(select(schema.api_keys)))
        users = map(schema.user, connection.execute(select(schema.users)))
        self.keys.records = {key.id: key for key in keys}
        self.users.records = {user.name: user for user in users}
        self._bootstrapped = connection.execute(select(schema.bootstraps.c.one)).first() is not None

    def bind_pepper(self, version: str) -> None:
        """Ties the store to the pepper that its keys are made under; only at start.

        Raises:
            StartupError: it is tied to another one.
        """
        with self._engine.begin() as connection:
            known = connection.execute(
                select(schema.settings.c.value).where(schema.settings.c.name == "pepper_version")
            ).scalar()
            if known is None:
                connection.execute(schema.settings.insert().values(name="pepper_version", value=version))
            elif known != version:
                raise StartupError(
                    "the pepper in pepper_file is not the one that the API keys in the store were made "
                    "under; restore the pepper_file that belongs to the store"
                )

    def signing_keys(self) -> Sequence[SealedKey]:
        """The sealed signing keys; only at start."""
        with self._engine.connect() as connection:
            return [schema.sealed_key(row) for row in connection.execute(select(schema.signing_keys))]

    def add_signing_key(self, key: SealedKey) -> None:
        """Stores a sealed signing key; only at start."""
        with self._engine.begin() as connection:
            connection.execute(
                schema.signing_keys.insert().values(
                    kid=key.kid,
                    purpose=key.purpose.value,
                    created_at=key.created_at,
                    kek_version=key.kek_version,
                    sealed=key.sealed,
                )
            )

    def list_keys(self) -> Sequence[ApiKey]:
        oldest_first = sorted(self.keys.records.values(), key=lambda key: (key.created_at, key.id))
        return [self.keys.described(key) for key in oldest_first]

    def find_key(self, key_id: str) -> ApiKey | None:
        key = self.keys.find(key_id)
        return self.keys.described(key) if key is not None else None

    def alive(self, principal: Principal, now: datetime) -> bool:
        if principal.auth_type == "api_key":
            key = self.keys.find(principal.credential_id)
            return key is not None and key.enabled and (key.expires_at is None or key.expires_at > now)
        user = self.users.find(principal.subject)
        return user is not None and user.enabled

    @property
    def bootstrapped(self) -> bool:
        return self._bootstrapped

    async def add_key(self, key: ApiKey) -> None:
        def write(connection: Connection) -> Callable[[], None]:
            connection.execute(schema.api_keys.insert().values(schema.api_key_row(key)))
            return lambda: self.keys.records.update({key.id: key})

        await self._change(write)

    async def set_key_enabled(self, key_id: str, enabled: bool) -> ApiKey | None:
        table = schema.api_keys

        def write(connection: Connection) -> Callable[[], ApiKey | None]:
            connection.execute(table.update().where(table.c.id == key_id).values(enabled=enabled))

            def show() -> ApiKey | None:
                key = self.keys.find(key_id)
                if key is None:
                    return None
                self.keys.records[key_id] = replace(key, enabled=enabled)
                return self.find_key(key_id)

            return show

        return await self._change(write)

    async def delete_key(self, key_id: str) -> bool:
        def write(connection: Connection) -> Callable[[], bool]:
            connection.execute(schema.api_keys.delete().where(schema.api_keys.c.id == key_id))
            return lambda: self.keys.records.pop(key_id, None) is not None

        return await self._change(write)

    async def bootstrap(self, keys: Sequence[ApiKey], user: User, at: datetime) -> bool:
        def write(connection: Connection) -> Callable[[], bool]:
            if connection.execute(select(schema.bootstraps.c.one)).first() is not None:
                return lambda: False
            row = {"one": True, "done_at": at, "key_ids": [key.id for key in keys], "user": user.name}
            connection.execute(schema.bootstraps.insert().values(row))
            connection.execute(schema.api_keys.insert(), [schema.api_key_row(key) for key in keys])
            connection.execute(schema.users.insert().values(schema.user_row(user)))

            def show() -> bool:
                self._bootstrapped = True
                self.keys.records.update({key.id: key for key in keys})
                self.users.records[user.name] = user
                return True

            return show

        return await self._change(write)

    async def undo_bootstrap(self) -> None:
        def write(connection: Connection) -> Callable[[], None]:
            done = connection.execute(select(schema.bootstraps)).one()
            connection.execute(schema.api_keys.delete().where(schema.api_keys.c.id.in_(done.key_ids)))
            connection.execute(schema.users.delete().where(schema.users.c.name == done.user))
            connection.execute(schema.bootstraps.delete())

            def show() -> None:
                self._bootstrapped = False
                for key_id in done.key_ids:
                    self.keys.records.pop(key_id, None)
                self.users.records.pop(done.user, None)

            return show

        await self._change(write)

    async def write_uses(self) -> None:
        """Writes the last uses that are not written yet; what cannot be written now is tried the next time."""
        uses = {key_id: self.keys.used[key_id] for key_id in self.keys.unwritten}
        if not uses:
            return
        self.keys.unwritten.clear()
        table = schema.api_keys

        def write(connection: Connection) -> Callable[[], None]:
            statement = table.update().where(table.c.id == bindparam("key")).values(last_used_at=bindparam("at"))
            connection.execute(statement, [{"key": key_id, "at": at} for key_id, at in uses.items()])
            return lambda: None

        try:
            await self._change(write)
        except Unavailable as error:
            self.keys.unwritten.update(uses)
            log.warning("last uses not written", reason=error.public_message)

    async def _change(self, write: Callable[[Connection], Callable[[], T]]) -> T:
        """Commits what ``write`` does, then runs what it returns, which shows the change to readers."""

        def commit_and_show() -> T:
            with self._engine.begin() as connection:
                show = write(connection)
            return show()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, commit_and_show)
        except SQLAlchemyError as error:
            log.error("store not written", cause=type(error).__name__)
            raise Unavailable("The credential store cannot be written; nothing was changed.") from None

    def close(self) -> None:
        """Waits for what is being written and closes the file."""
        self._writer.shutdown(wait=True)
        self._engine.dispose()
        os.close(self._lock)


def _lock(path: Path) -> int:
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartupError(
            f"{path}: the credential store cannot be opened ({error.strerror}); make its directory, give this "
            "user the right to write there, or change `store` in the configuration"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StartupError(f"{path}: another authn process has this credential store; stop it first") from error
    return lock
