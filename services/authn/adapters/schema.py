"""Tables of authn's store, and rows <-> records. Times are stored in UTC, lists as JSON."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

from services.authn.adapters.signing_keys import Purpose, SealedKey
from services.authn.model import ApiKey, NamespaceScope, User

VERSION = 1
"""Version of this schema, in SQLite's ``user_version``."""

APPLICATION_ID = 0x6B674E31
"""Marks a SQLite file as authn's ("kgN1")."""

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored without zone as UTC."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None else None


settings = Table("settings", metadata, Column("name", String, primary_key=True), Column("value", String))

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("identity", String, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("pepper_version", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("permissions", JSON, nullable=False),
    Column("all_namespaces", Boolean, nullable=False),
    Column("namespaces", JSON, nullable=False),
    Column("tools", JSON, nullable=False),
    Column("tenant", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
)

users = Table(
    "users",
    metadata,
    Column("name", String, primary_key=True),
    Column("password_hash", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("permissions", JSON, nullable=False),
    Column("all_namespaces", Boolean, nullable=False),
    Column("namespaces", JSON, nullable=False),
    Column("tenant", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("kek_version", String, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

# One row at most: that the first administrator was made, and as what.
bootstraps = Table(
    "bootstraps",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("done_at", UtcDateTime, nullable=False),
    Column("key_ids", JSON, nullable=False),
    Column("user", String, nullable=False),
)


def _scope_columns(scope: NamespaceScope) -> dict[str, Any]:
    return {"all_namespaces": scope.all, "namespaces": list(scope.patterns)}


def _scope(row: Any) -> NamespaceScope:
    return NamespaceScope(row.all_namespaces, tuple(row.namespaces))


def api_key_row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "identity": key.identity,
        "mac": key.mac,
        "pepper_version": key.pepper_version,
        "created_at": key.created_at,
        "roles": list(key.roles),
        "permissions": list(key.permissions),
        **_scope_columns(key.namespaces),
        "tools": list(key.tools),
        "tenant": key.tenant,
        "enabled": key.enabled,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }


def api_key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        identity=row.identity,
        mac=row.mac,
        pepper_version=row.pepper_version,
        created_at=row.created_at,
        roles=tuple(row.roles),
        permissions=tuple(row.permissions),
        namespaces=_scope(row),
        tools=tuple(row.tools),
        tenant=row.tenant,
        enabled=row.enabled,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def user_row(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "password_hash": user.password_hash,
        "created_at": user.created_at,
        "roles": list(user.roles),
        "permissions": list(user.permissions),
        **_scope_columns(user.namespaces),
        "tenant": user.tenant,
        "enabled": user.enabled,
    }


def user(row: Any) -> User:
    return User(
        name=row.name,
        password_hash=row.password_hash,
        created_at=row.created_at,
        roles=tuple(row.roles),
        permissions=tuple(row.permissions),
        namespaces=_scope(row),
        tenant=row.tenant,
        enabled=row.enabled,
    )


def sealed_key(row: Any) -> SealedKey:
    return SealedKey(row.kid, Purpose(row.purpose), row.created_at, row.kek_version, row.sealed)
