"""Trusted issuers: those of the configuration, and those that administrators keep in the store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from services.authn.adapters import schema
from services.authn.adapters.store import Store
from services.authn.model import IssuerRecord, TrustedIssuer
from services.common.revocations import issuer_name

_STORED = [field.name for field in fields(TrustedIssuer) if field.name not in ("enabled", "configured", "secret")]


class IssuerStore:
    """The port ``IssuerRecords``. Where both name an issuer, the configuration counts."""

    def __init__(self, store: Store, configured: Sequence[TrustedIssuer]) -> None:
        self._store = store
        self._configured = {issuer.issuer: issuer for issuer in configured}
        # Made of a record once, and not at each token.
        self._known: dict[str, tuple[IssuerRecord, TrustedIssuer]] = {}

    def find(self, issuer: str) -> TrustedIssuer | None:
        configured = self._configured.get(issuer)
        if configured is not None:
            return configured
        record = self._store.mirror.issuers.get(issuer)
        if record is None:
            return None
        known = self._known.get(issuer)
        if known is None or known[0] is not record:
            known = self._known[issuer] = (record, _from_record(record))
        return known[1]

    def list(self) -> Sequence[TrustedIssuer]:
        names = sorted({*self._configured, *self._store.mirror.issuers})
        return [found for name in names if (found := self.find(name)) is not None]

    async def add(self, issuer: TrustedIssuer, now: datetime) -> bool:
        table = schema.issuers
        document = {name: getattr(issuer, name) for name in _STORED}
        record = IssuerRecord(issuer.issuer, _plain(document), True, now)
        records = self._store.mirror.issuers

        def write(connection: Connection, _revision: int) -> Callable[[], bool]:
            if connection.execute(table.select().where(table.c.issuer == issuer.issuer)).first() is not None:
                return lambda: False
            connection.execute(table.insert().values(schema.issuer_row(record)))

            def show() -> bool:
                records[issuer.issuer] = record
                return True

            return show

        return issuer.issuer not in self._configured and await self._store.change(write)

    async def set_enabled(self, issuer: str, enabled: bool) -> TrustedIssuer | None:
        table = schema.issuers

        def write(connection: Connection, _revision: int) -> Callable[[], TrustedIssuer | None]:
            connection.execute(table.update().where(table.c.issuer == issuer).values(enabled=enabled))

            def show() -> TrustedIssuer | None:
                records = self._store.mirror.issuers
                record = records.get(issuer)
                if record is not None:
                    records[issuer] = IssuerRecord(issuer, record.document, enabled, record.created_at)
                return self.find(issuer)

            return show

        return await self._store.change(write, [issuer_name(issuer)])

    async def delete(self, issuer: str) -> bool:
        table = schema.issuers

        def write(connection: Connection, _revision: int) -> Callable[[], bool]:
            connection.execute(table.delete().where(table.c.issuer == issuer))
            return lambda: self._store.mirror.issuers.pop(issuer, None) is not None

        return await self._store.change(write, [issuer_name(issuer)])


def _plain(document: Mapping[str, object]) -> dict[str, object]:
    return {
        name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for name, value in document.items()
    }


def _from_record(record: IssuerRecord) -> TrustedIssuer:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.document.items()
        if name in _STORED
    }
    return TrustedIssuer(**values, enabled=record.enabled)
