"""API keys and the bootstrap in the store, as administration sees them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, select

from services.authn.adapters import certificate, schema
from services.authn.adapters.store import Store
from services.authn.model import ApiKey, Principal, User
from services.common.identity import OWN_ISSUER
from services.common.revocations import identity_name, names


class CredentialStore:
    """The port ``Credentials``. Every change is durable and effective when its call returns."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list_keys(self) -> Sequence[ApiKey]:
        keys = self._store.keys
        oldest_first = sorted(keys.records.values(), key=lambda key: (key.created_at, key.id))
        return [keys.described(key) for key in oldest_first]

    async def find_unused(self, since: datetime, at_most: int) -> Sequence[ApiKey]:
        await self._store.write_uses()
        table = schema.api_keys
        # From the store itself: a mirror hears of changes, not of uses by other replicas.
        unused = table.select().where(func.coalesce(table.c.last_used_at, table.c.created_at) < since)
        oldest = unused.order_by(table.c.created_at, table.c.id).limit(at_most)
        return await self._store.read(lambda c: [schema.api_key(row) for row in c.execute(oldest)])

    def find_key(self, key_id: str) -> ApiKey | None:
        key = self._store.keys.find(key_id)
        return self._store.keys.described(key) if key is not None else None

    def alive(self, principal: Principal, revision: int, now: datetime) -> bool:
        if principal.expires_at is not None and principal.expires_at <= now:
            return False
        every = names(principal.issuer, principal.subject, principal.credential_id, principal.ends_with)
        if self._store.ended_since(every, revision):
            return False
        if principal.issuer != OWN_ISSUER or principal.auth_type == certificate.AUTH_TYPE:
            return True
        key = self._store.keys.find(principal.credential_id.partition("/")[0])
        if key is not None or principal.auth_type == "api_key":
            if key is None or key.identity != principal.subject or not key.enabled:
                return False
            return key.expires_at is None or key.expires_at > now
        user = self._store.users.find(principal.subject)
        return user is not None and user.enabled

    @property
    def bootstrapped(self) -> bool:
        return self._store.mirror.bootstrapped

    async def add_key(self, key: ApiKey) -> None:
        def write(connection: Connection, _revision: int) -> Callable[[], None]:
            connection.execute(schema.api_keys.insert().values(schema.api_key_row(key)))
            return lambda: self._store.keys.records.update({key.id: key})

        await self._store.change(write)

    async def set_key_enabled(self, key_id: str, enabled: bool) -> ApiKey | None:
        table = schema.api_keys
        records = self._store.keys.records

        def write(connection: Connection, _revision: int) -> Callable[[], ApiKey | None]:
            connection.execute(table.update().where(table.c.id == key_id).values(enabled=enabled))

            def show() -> ApiKey | None:
                key = records.get(key_id)
                if key is None:
                    return None
                records[key_id] = replace(key, enabled=enabled)
                return self.find_key(key_id)

            return show

        return await self._store.change(write, [key_id])

    async def rotate_key(self, old: ApiKey, new: ApiKey, ends_at: datetime) -> ApiKey | None:
        table = schema.api_keys
        records = self._store.keys.records

        def write(connection: Connection, _revision: int) -> Callable[[], ApiKey | None]:
            # Of two rotations at the same time, one finds the key not yet replaced.
            found = connection.execute(
                table.update()
                .where(table.c.id == old.id, table.c.replaced_by == "")
                .values(expires_at=ends_at, replaced_by=new.id)
            )
            if found.rowcount != 1:
                return lambda: None
            connection.execute(table.insert().values(schema.api_key_row(new)))

            def show() -> ApiKey:
                records[new.id] = new
                records[old.id] = replace(old, expires_at=ends_at, replaced_by=new.id)
                return self._store.keys.described(records[old.id])

            return show

        return await self._store.change(write, [old.id])

    async def undo_rotation(self, old: ApiKey, new: ApiKey) -> None:
        table = schema.api_keys
        records = self._store.keys.records

        def write(connection: Connection, _revision: int) -> Callable[[], None]:
            connection.execute(table.delete().where(table.c.id == new.id))
            back = {"expires_at": old.expires_at, "replaced_by": old.replaced_by}
            connection.execute(table.update().where(table.c.id == old.id).values(**back))

            def show() -> None:
                records.pop(new.id, None)
                if old.id in records:
                    records[old.id] = replace(records[old.id], **back)  # type: ignore[arg-type]

            return show

        await self._store.change(write, [old.id, new.id])

    async def delete_key(self, key_id: str) -> bool:
        return bool(await self.delete_keys([key_id]))

    async def delete_keys(self, key_ids: Sequence[str]) -> Sequence[str]:
        def write(connection: Connection, _revision: int) -> Callable[[], Sequence[str]]:
            connection.execute(schema.api_keys.delete().where(schema.api_keys.c.id.in_(key_ids)))
            records = self._store.keys.records
            return lambda: [key_id for key_id in key_ids if records.pop(key_id, None) is not None]

        return await self._store.change(write, key_ids)

    async def bootstrap(self, keys: Sequence[ApiKey], user: User, at: datetime) -> bool:
        mirror = self._store.mirror

        def write(connection: Connection, revision: int) -> Callable[[], bool]:
            if connection.execute(select(schema.bootstraps.c.one)).first() is not None:
                return lambda: False
            made = replace(user, generation=revision)
            row = {"one": True, "done_at": at, "key_ids": [key.id for key in keys], "user": user.name}
            connection.execute(schema.bootstraps.insert().values(row))
            connection.execute(schema.api_keys.insert(), [schema.api_key_row(key) for key in keys])
            connection.execute(schema.users.insert().values(schema.user_row(made)))

            def show() -> bool:
                mirror.bootstrapped = True
                mirror.keys.records.update({key.id: key for key in keys})
                mirror.users.records[user.name] = made
                return True

            return show

        return await self._store.change(write)

    async def undo_bootstrap(self) -> None:
        mirror = self._store.mirror
        done = await self._store.read(lambda connection: connection.execute(select(schema.bootstraps)).one())

        def write(connection: Connection, _revision: int) -> Callable[[], None]:
            connection.execute(schema.api_keys.delete().where(schema.api_keys.c.id.in_(done.key_ids)))
            connection.execute(schema.users.delete().where(schema.users.c.name == done.user))
            connection.execute(schema.bootstraps.delete())

            def show() -> None:
                mirror.bootstrapped = False
                for key_id in done.key_ids:
                    mirror.keys.records.pop(key_id, None)
                mirror.users.records.pop(done.user, None)

            return show

        await self._store.change(write, [*done.key_ids, identity_name("kubegate", done.user)])
