"""Failed attempts, lock-outs and used second factors, durable on their own (R25).

Each is a transaction of its own that is committed before the attempt is answered: whatever fails later in the
request takes nothing of it back. Unknown names share rows by a keyed hash, so that they cost what known ones
cost and cannot fill the store.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from services.authn.adapters.api_key import Pepper
from services.authn.adapters.schema import logins, recovery_codes
from services.authn.adapters.store import Store

THRESHOLD = 5
"""Failures in a row that lock a name."""

FIRST_LOCK = timedelta(seconds=30)
"""How long; each further failure doubles it."""

LONGEST_LOCK = timedelta(minutes=15)
"""So that who keeps guessing for another does not shut him out for good."""

_BUCKETS = 4096


def lock_time(failures: int) -> timedelta | None:
    """For how long a name is locked after so many failures in a row."""
    if failures < THRESHOLD:
        return None
    doublings: int = min(failures - THRESHOLD, 16)
    return min(FIRST_LOCK * (1 << doublings), LONGEST_LOCK)


class LoginStore:
    """The port ``Logins``."""

    def __init__(self, store: Store, pepper: Pepper) -> None:
        self._store = store
        self._pepper = pepper

    def row_of_stranger(self, name: str) -> str:
        """The row that an unknown name shares with others; no user's name begins with "?"."""
        number = int.from_bytes(self._pepper.mac("unknown user", name)[:4], "big") % _BUCKETS
        return f"?{number}"

    async def locked(self, name: str, now: datetime) -> bool:
        """Whether attempts on a name are refused now, right or wrong."""
        until = await self.locked_until(name)
        return until is not None and until > now

    async def locked_until(self, name: str) -> datetime | None:
        query = select(logins.c.locked_until).where(logins.c.name == name)
        until: datetime | None = await self._store.read(lambda connection: connection.execute(query).scalar())
        return until

    async def failed(self, name: str, now: datetime) -> None:
        """Counts a failure; from the fifth in a row on, the name is locked for a time that doubles."""

        def write(connection: Connection) -> None:
            failures = self._row(connection, name).failures + 1
            wait = lock_time(failures)
            connection.execute(
                logins.update()
                .where(logins.c.name == name)
                .values(failures=failures, locked_until=now + wait if wait else None)
            )

        await self._store.write(write)

    async def succeeded(self, name: str, now: datetime, step: int | None) -> bool:
        """Ends a row of failures. ``step``: the time step of a second factor, which is used up by this. False
        where that was used before, or the name was locked meanwhile: nothing is changed then."""

        def write(connection: Connection) -> bool:
            row = self._row(connection, name)
            if row.locked_until is not None and row.locked_until > now:
                return False
            if step is None and not row.failures:
                return True
            values = {"failures": 0, "locked_until": None} | ({} if step is None else {"totp_step": step})
            statement = logins.update().where(logins.c.name == name).values(values)
            if step is not None:
                statement = statement.where(logins.c.totp_step < step)
            return connection.execute(statement).rowcount == 1

        return await self._store.write(write)

    async def use_recovery_code(self, name: str, code: str, now: datetime) -> bool:
        """Uses up a recovery code and ends a row of failures; false where there is no such code."""
        mac = self.recovery_mac(name, code)

        def write(connection: Connection) -> bool:
            row = self._row(connection, name)
            if row.locked_until is not None and row.locked_until > now:
                return False
            mine = (recovery_codes.c.user == name) & (recovery_codes.c.mac == mac)
            if connection.execute(recovery_codes.delete().where(mine)).rowcount != 1:
                return False
            values = {"failures": 0, "locked_until": None}
            connection.execute(logins.update().where(logins.c.name == name).values(values))
            return True

        return await self._store.write(write)

    async def unlock(self, name: str) -> None:
        await self._store.write(lambda connection: self.end_lock(connection, name))

    def end_lock(self, connection: Connection, name: str) -> None:
        """Ends a lock-out, as part of a transaction; used time steps stay used."""
        values = {"failures": 0, "locked_until": None}
        connection.execute(logins.update().where(logins.c.name == name).values(values))

    def use_step(self, connection: Connection, name: str, step: int) -> None:
        """Uses up a time step of a second factor, as part of a transaction."""
        row = self._row(connection, name)
        connection.execute(logins.update().where(logins.c.name == name).values(totp_step=max(step, row.totp_step)))

    def recovery_mac(self, name: str, code: str) -> bytes:
        """What is stored of a recovery code."""
        plain = code.replace("-", "").replace(" ", "").upper()
        return self._pepper.mac(f"recovery/{name}", plain)

    def _row(self, connection: Connection, name: str) -> Row[Any]:
        """The row of a name, locked for this transaction; made where there is none."""
        query = select(logins).where(logins.c.name == name).with_for_update()
        row = connection.execute(query).first()
        if row is None:
            connection.execute(logins.insert().values(name=name, failures=0, locked_until=None, totp_step=0))
            row = connection.execute(query).one()
        return row
