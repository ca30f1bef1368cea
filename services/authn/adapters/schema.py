"""Tables of authn's store, and rows <-> records. Times are stored in UTC, lists as JSON.

A change here needs a step under ``migrations/versions``; a test compares the two.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    false,
)

from services.authn.adapters.signing_keys import Purpose, SealedKey
from services.authn.model import ApiKey, IssuerRecord, NamespaceScope, User

VERSION = 2
"""Number of the newest step under ``migrations/versions`` that these tables are the result of."""

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
    Column("certificate_sha256", String, nullable=False, server_default=""),
    Column("replaced_by", String, nullable=False, server_default=""),
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
    Column("generation", BigInteger, nullable=False, server_default="0"),
    Column("totp_sealed", LargeBinary),
    Column("totp_confirmed", Boolean, nullable=False, server_default=false()),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String, primary_key=True),
    Column("purpose", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("kek_version", String, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("active_from", UtcDateTime),
    Column("algorithm", String, nullable=False, server_default="EdDSA"),
)

# One row: the newest revision, and the newest whose changes have been forgotten.
head = Table(
    "head",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
)

# What ended or changed at which revision, by the names of ``WatchRevocationsResponse.ended``.
changes = Table(
    "changes",
    metadata,
    Column("revision", BigInteger, primary_key=True),
    Column("name", String, primary_key=True),
    Column("at", UtcDateTime, nullable=False, index=True),
)

# Failed attempts of users, and the newest time step of their second factor.
logins = Table(
    "logins",
    metadata,
    Column("name", String, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("locked_until", UtcDateTime),
    Column("totp_step", BigInteger, nullable=False),
)

recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("user", String, primary_key=True),
    Column("mac", LargeBinary, primary_key=True),
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("credential_id", String, primary_key=True),
    Column("until", UtcDateTime, nullable=False),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("user", String, nullable=False, index=True),
    Column("generation", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("auth_time", UtcDateTime, nullable=False),
    Column("amr", JSON, nullable=False),
    Column("used", Boolean, nullable=False),
)

issuers = Table(
    "issuers",
    metadata,
    Column("issuer", String, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
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
        "certificate_sha256": key.certificate_sha256,
        "replaced_by": key.replaced_by,
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
        certificate_sha256=row.certificate_sha256,
        replaced_by=row.replaced_by,
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
        "generation": user.generation,
        "totp_sealed": user.totp_sealed,
        "totp_confirmed": user.totp_confirmed,
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
        generation=row.generation,
        totp_sealed=row.totp_sealed,
        totp_confirmed=row.totp_confirmed,
    )


def sealed_key_row(key: SealedKey) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "purpose": key.purpose.value,
        "created_at": key.created_at,
        "kek_version": key.kek_version,
        "sealed": key.sealed,
        "active_from": key.active_from,
        "algorithm": key.algorithm,
    }


def sealed_key(row: Any) -> SealedKey:
    return SealedKey(
        row.kid, Purpose(row.purpose), row.created_at, row.kek_version, row.sealed, row.active_from, row.algorithm
    )


def issuer_row(record: IssuerRecord) -> dict[str, Any]:
    return {
        "issuer": record.issuer,
        "document": dict(record.document),
        "enabled": record.enabled,
        "created_at": record.created_at,
    }


def issuer(row: Any) -> IssuerRecord:
    return IssuerRecord(row.issuer, row.document, row.enabled, row.created_at)
