"""Users in the store, as administration sees them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from services.authn.adapters import schema
from services.authn.adapters.logins import LoginStore
from services.authn.adapters.store import Store
from services.authn.model import Secret, User
from services.common.identity import OWN_ISSUER
from services.common.revocations import identity_name


class UserStore:
    """The port ``UserRecords``."""

    def __init__(self, store: Store, logins: LoginStore) -> None:
        self._store = store
        self._logins = logins

    def find(self, name: str) -> User | None:
        return self._store.users.find(name)

    def list(self) -> Sequence[User]:
        return sorted(self._store.users.records.values(), key=lambda user: user.name)

    async def add(self, user: User) -> bool:
        records = self._store.users.records

        def write(connection: Connection, revision: int) -> Callable[[], bool]:
            made = replace(user, generation=revision)
            if connection.execute(schema.users.select().where(schema.users.c.name == user.name)).first() is not None:
                return lambda: False
            _forget(connection, user.name)
            connection.execute(schema.users.insert().values(schema.user_row(made)))

            def show() -> bool:
                records[user.name] = made
                return True

            return show

        return await self._store.change(write, [identity_name(OWN_ISSUER, user.name)])

    async def change(self, name: str, *, ends_tokens: bool, **fields: object) -> User | None:
        return await self._replace(name, ends_tokens, fields, lambda connection: None)

    async def reset_password(self, name: str, password_hash: str) -> User | None:
        fields: dict[str, object] = {"password_hash": password_hash}
        return await self._replace(name, True, fields, lambda connection: self._logins.end_lock(connection, name))

    async def confirm_totp(self, name: str, step: int) -> User | None:
        fields: dict[str, object] = {"totp_confirmed": True}
        return await self._replace(name, True, fields, lambda connection: self._logins.use_step(connection, name, step))

    async def enrol(self, name: str, sealed: bytes, codes: Sequence[Secret]) -> User | None:
        macs = [self._logins.recovery_mac(name, code.reveal()) for code in codes]

        def rows(connection: Connection) -> None:
            table = schema.recovery_codes
            connection.execute(table.delete().where(table.c.user == name))
            connection.execute(table.insert(), [{"user": name, "mac": mac} for mac in macs])

        return await self._replace(name, False, {"totp_sealed": sealed, "totp_confirmed": False}, rows)

    async def delete(self, name: str) -> bool:
        records = self._store.users.records

        def write(connection: Connection, _revision: int) -> Callable[[], bool]:
            connection.execute(schema.users.delete().where(schema.users.c.name == name))
            _forget(connection, name)
            return lambda: records.pop(name, None) is not None

        return await self._store.change(write, [identity_name(OWN_ISSUER, name)])

    async def _replace(
        self, name: str, ends_tokens: bool, fields: dict[str, object], further: Callable[[Connection], None]
    ) -> User | None:
        records = self._store.users.records

        def write(connection: Connection, revision: int) -> Callable[[], User | None]:
            values = {**fields, **({"generation": revision} if ends_tokens else {})}
            connection.execute(schema.users.update().where(schema.users.c.name == name).values(**values))
            further(connection)

            def show() -> User | None:
                user = records.get(name)
                if user is not None:
                    records[name] = replace(user, **values)  # type: ignore[arg-type]
                return records.get(name)

            return show

        return await self._store.change(write, [identity_name(OWN_ISSUER, name)])


def _forget(connection: Connection, name: str) -> None:
    """Nothing of an old user passes to a new one of the same name."""
    connection.execute(schema.logins.delete().where(schema.logins.c.name == name))
    connection.execute(schema.recovery_codes.delete().where(schema.recovery_codes.c.user == name))
    connection.execute(schema.refresh_tokens.delete().where(schema.refresh_tokens.c.user == name))
