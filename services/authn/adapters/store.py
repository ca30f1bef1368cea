"""authn's store: its engine, a mirror of its records in memory, and the revision that the mirror is at.

Reading a record never waits and costs the same for known and unknown names, for every record is in memory. A
change is written in a thread, committed, and then seen in the mirror, all in one step that no cancellation
divides; only that thread changes the mirror.

A SQLite file has one process, which a lock makes sure of: its mirror is always right. PostgreSQL may have
several. There the mirror is a cache under the same rule as every other (R12): it may be used for ``TERM``
seconds after the begin of the last read that found it right, and no longer.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from services.authn.adapters import history, schema
from services.authn.adapters.database import checked_url, is_url, open_database
from services.authn.adapters.signing_keys import SealedKey
from services.authn.model import ApiKey, Ends, IssuerRecord, User
from services.common.clock import Clock, SystemClock
from services.common.errors import Unavailable
from services.common.log import Outage, get_logger
from services.common.runtime_errors import StartupError

T = TypeVar("T")

TERM = 1.0
"""Seconds for which a mirror that others may have overtaken is used after it was found right."""

SYNC_PERIOD = 0.25
"""Seconds between two looks at the revision of a shared store."""

PRUNE_AT = 4096
"""Ends in memory, at least, at which those that nobody needs any more are forgotten."""

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
        """The record with its newest use, by this process or by another."""
        used = self.used.get(key.id)
        if used is None or (key.last_used_at is not None and key.last_used_at > used):
            return key
        return replace(key, last_used_at=used)


class UserTable:
    """Users as the authenticators see them."""

    def __init__(self) -> None:
        self.records: dict[str, User] = {}

    def find(self, name: str) -> User | None:
        return self.records.get(name)


@dataclass(slots=True)
class Mirror:
    """Every record of the store at ``revision``."""

    keys: KeyTable = field(default_factory=KeyTable)
    users: UserTable = field(default_factory=UserTable)
    issuers: dict[str, IssuerRecord] = field(default_factory=dict)
    revoked: dict[str, datetime] = field(default_factory=dict)
    signing_keys: dict[str, SealedKey] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    bootstrapped: bool = False
    revision: int = 0

    def load(self, connection: Connection) -> None:
        """Reads everything. The revision comes first and is shown last: a reader who asked for it before may
        see newer records than it says, never older ones."""
        revision = history.newest(connection)
        keys = {row.id: schema.api_key(row) for row in connection.execute(select(schema.api_keys))}
        users = {row.name: schema.user(row) for row in connection.execute(select(schema.users))}
        issuers = {row.issuer: schema.issuer(row) for row in connection.execute(select(schema.issuers))}
        signing = {row.kid: schema.sealed_key(row) for row in connection.execute(select(schema.signing_keys))}
        revoked = {row.credential_id: row.until for row in connection.execute(select(schema.revoked_tokens))}
        ended = history.kept(connection)
        bootstrapped = connection.execute(select(schema.bootstraps.c.one)).first() is not None
        self.keys.records, self.users.records = keys, users
        self.issuers, self.signing_keys, self.revoked, self.ended = issuers, signing, revoked, ended
        self.bootstrapped = bootstrapped
        self.revision = revision


class Store:
    """The engine and the mirror. What is done with them lies in the files beside this one."""

    def __init__(self, engine: Engine, lock: int | None, clock: Clock) -> None:
        self._engine = engine
        self._lock = lock
        self._clock = clock
        self._outages = {
            verb: Outage(log, "store does not answer", "store answers again", level=logging.ERROR, verb=verb)
            for verb in ("read", "written")
        }
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._found_right_at = float("-inf")
        self._unsure = False
        self._prune_at = PRUNE_AT
        self.mirror = Mirror()

    @classmethod
    def open(cls, target: Path | str, clock: Clock | None = None, *, password: str = "") -> "Store":
        """Opens the store, making or migrating it where that is due, and reads it.

        Raises:
            StartupError: another process has the file, or the store is damaged, foreign or of another version.
        """
        url: URL | None = None
        if isinstance(target, str) and is_url(target):
            url = checked_url(target)
            url = url.set(password=password) if password else url
        path = Path(target) if url is None else None
        lock = _lock(path) if path is not None else None
        try:
            store = cls(open_database(url or Path(target)), lock, clock or SystemClock())
            with store._engine.connect() as connection:
                store.mirror.load(connection)
        except StartupError:
            _unlock(lock)
            raise
        except (SQLAlchemyError, ValueError, TypeError) as error:
            _unlock(lock)
            raise StartupError(
                f"{path or 'the credential store'}: a record in the credential store cannot be read; restore it "
                "from a backup"
            ) from error
        return store

    @property
    def shared(self) -> bool:
        """Whether other processes may change the store."""
        return self._lock is None

    @property
    def keys(self) -> KeyTable:
        return self.mirror.keys

    @property
    def users(self) -> UserTable:
        return self.mirror.users

    async def current(self) -> int:
        """The revision that what is read from now on has at least.

        Raises:
            Unavailable: the mirror may have been overtaken, and the store does not answer.
        """
        if self._unsure or (self.shared and self._clock.monotonic() - self._found_right_at >= TERM):
            await self.sync()
        return self.mirror.revision

    async def sync(self) -> None:
        """Finds out whether the mirror is right, and makes it so.

        Raises:
            Unavailable: the store does not answer.
        """
        began = self._clock.monotonic()

        def look() -> None:
            with self._engine.connect() as connection:
                if self._unsure or history.newest(connection) != self.mirror.revision:
                    self.mirror.load(connection)
            self._unsure = False

        await self._in(self._writer, look, "read")
        self._found_right_at = max(self._found_right_at, began)

    async def follow(self) -> None:
        """Runs until cancelled: keeps the mirror of a shared store right."""
        while self.shared:
            # Where it does not answer, the log says so already.
            with suppress(Unavailable):
                await self.sync()
            await asyncio.sleep(SYNC_PERIOD)

    async def since(self, known: int) -> Ends:
        """What ended after a revision, by a read of the store that begins now (R12).

        Raises:
            Unavailable: the store does not answer.
        """
        if self.shared:
            await self.sync()
        return await self.read(lambda connection: history.since(connection, known))

    def ended_since(self, names: Iterable[str], revision: int) -> bool:
        """Whether one of the names has ended after a revision, as far back as principal tokens live."""
        return any(self.mirror.ended.get(name, 0) > revision for name in names)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """What a query finds in the store itself.

        Raises:
            Unavailable: the store does not answer.
        """

        def ask() -> T:
            with self._engine.connect() as connection:
                return query(connection)

        return await self._in(self._reader, ask, "read")

    async def write(self, statements: Callable[[Connection], T]) -> T:
        """Commits what changes no record of the mirror.

        Raises:
            Unavailable: nothing was changed, or it is not known.
        """

        def commit() -> T:
            with self._engine.begin() as connection:
                return statements(connection)

        return await self._in(self._writer, commit, "written")

    async def change(self, statements: Callable[[Connection, int], Callable[[], T]], ends: Sequence[str] = ()) -> T:
        """Commits a change of records under the next revision, then runs what ``statements`` returns, which
        shows the change in the mirror. ``ends``: names of what ends or changes with it.

        Raises:
            Unavailable: nothing was changed.
        """

        def commit_and_show() -> T:
            now = self._clock.now()
            try:
                with self._engine.begin() as connection:
                    revision = history.advance(connection, now)
                    show = statements(connection, revision)
                    history.note(connection, revision, ends, now)
                    kept = history.kept(connection) if len(self.mirror.ended) >= self._prune_at else None
            except SQLAlchemyError:
                # A commit whose acknowledgement was lost may have happened.
                self._unsure = self.shared
                raise
            result = show()
            if kept is not None:
                self.mirror.ended, self._prune_at = kept, 2 * len(kept) + PRUNE_AT
            for name in ends:
                self.mirror.ended[name] = revision
            if revision == self.mirror.revision + 1:
                self.mirror.revision = revision
            else:
                self._unsure = True
            return result

        return await self._in(self._writer, commit_and_show, "written")

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T], verb: str) -> T:
        try:
            done = await asyncio.get_running_loop().run_in_executor(pool, work)
        except SQLAlchemyError as error:
            self._outages[verb].failed(cause=type(error).__name__)
            if verb == "written":
                raise Unavailable("The credential store cannot be written; nothing was changed.") from None
            raise Unavailable("The credential store does not answer; try again shortly.") from None
        self._outages[verb].worked()
        return done

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

    async def touch(self) -> None:
        """Commits a write that changes nothing.

        Raises:
            Unavailable: it cannot be written.
        """
        table = schema.settings
        await self.write(lambda connection: connection.execute(table.update().values(value=table.c.value)))

    async def write_uses(self) -> None:
        """Writes the last uses that are not written yet; what cannot be written now is tried the next time."""
        uses = {key_id: self.keys.used[key_id] for key_id in self.keys.unwritten}
        if not uses:
            return
        self.keys.unwritten.clear()
        table = schema.api_keys
        statement = table.update().where(table.c.id == bindparam("key")).values(last_used_at=bindparam("at"))
        rows: list[dict[str, Any]] = [{"key": key_id, "at": at} for key_id, at in uses.items()]
        try:
            await self.write(lambda connection: connection.execute(statement, rows))
        except Unavailable as error:
            self.keys.unwritten.update(uses)
            log.warning("last uses not written", reason=error.public_message)

    def close(self) -> None:
        """Waits for what is being written and closes the store."""
        self._reader.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        self._engine.dispose()
        _unlock(self._lock)


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


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
