"""Used confirmations and taken idempotency keys, in authz's SQLite file."""

from __future__ import annotations

import sqlite3

from services.authz.adapters.sqlite_store import SqliteStore
from services.authz.ports import Claim, Confirmation, Key

FORGOTTEN_AT_ONCE = 100
"""Rows whose time is over that one claim removes at most, of each table."""

_COLUMNS = "id, digest, request_id, claimed_at, deadline, outcome"


class SqliteOnce:
    """Over the store's connection, whose transactions come one after the other."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def recall(self, key: Key, now: float) -> Claim | None:
        """Who took a key, unless it is forgotten at ``now``."""
        return await self._store.run(lambda connection: _find(connection, key, now))

    async def claim(
        self, key: Key | None, claim: Claim, confirmation: Confirmation | None, now: float, forget: float
    ) -> Claim | bool:
        """Uses the confirmation and takes the key until ``forget``: True. Otherwise changes nothing and returns the
        claim that has the key, or False where the confirmation was used before."""

        def work(connection: sqlite3.Connection) -> Claim | bool:
            if key is not None and (found := _find(connection, key, now)) is not None:
                return found
            if confirmation is not None:
                used = connection.execute(
                    "INSERT INTO used_confirmations (id, forget) VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (confirmation.id, confirmation.expires),
                ).rowcount
                if not used:
                    return False
            if key is not None:
                person = (key.issuer, key.subject, key.text)
                connection.execute(
                    f"INSERT OR REPLACE INTO claims (issuer, subject, key, forget, {_COLUMNS}) "  # noqa: S608
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*person, forget, claim.id, claim.digest, claim.request_id, claim.claimed_at, claim.deadline, ""),
                )
            for table in ("used_confirmations", "claims"):
                connection.execute(
                    f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE forget <= ? LIMIT ?)",  # noqa: S608
                    (now, FORGOTTEN_AT_ONCE),
                )
            return True

        return await self._store.run(work)

    async def settle(self, claim_id: str, outcome: str) -> None:
        """Stores how a claim ended, unless that is stored."""
        await self._store.run(
            lambda connection: connection.execute(
                "UPDATE claims SET outcome = ? WHERE id = ? AND outcome = ''", (outcome, claim_id)
            )
        )

    async def release(self, claim_id: str) -> None:
        """Forgets a claim whose outcome is not stored."""
        await self._store.run(
            lambda connection: connection.execute("DELETE FROM claims WHERE id = ? AND outcome = ''", (claim_id,))
        )


def _find(connection: sqlite3.Connection, key: Key, now: float) -> Claim | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM claims WHERE issuer = ? AND subject = ? AND key = ? AND forget > ?",  # noqa: S608
        (key.issuer, key.subject, key.text, now),
    ).fetchone()
    return Claim(*row) if row is not None else None
