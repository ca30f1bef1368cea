"""Elevations as authz's store lists them."""

from pathlib import Path

import pytest

from services.authz.adapters.sqlite_store import SqliteStore
from services.authz.policy.scope import EVERYWHERE
from services.authz.ports import Record, State


def record(id_: str, state: State = State.REQUESTED, *, tenant: str = "", expires: float = 2000) -> Record:
    return Record(id_, state, "kubegate", "alice", tenant, "operator", EVERYWHERE, 600, "incident", 1000, expires)


@pytest.mark.req("R17", "R13")
async def test_what_is_open_is_found_behind_any_number_that_is_not(tmp_path: Path) -> None:
    """Regression: it was looked for among the newest thousand."""
    store = SqliteStore(tmp_path / "authz.db")
    try:
        for each in (
            record("1"),
            record("2", State.ACTIVE, tenant="acme"),
            record("3", State.REVOKED),
            record("4", expires=1500),
            record("5", State.REVOKED, tenant="acme"),
        ):
            assert await store.add(each, at_most=10)

        async def listed(tenant: str | None, limit: int, open_at: float | None) -> list[str]:
            return [each.id for each in await store.records(tenant, limit, open_at=open_at)]

        assert await listed(None, 2, 1500) == ["2", "1"]
        assert await listed(None, 2, 1499) == ["4", "2"]
        assert await listed("acme", 2, 1500) == ["2"]
        assert await listed(None, 2, 2000) == []
        assert await listed(None, 9, None) == ["5", "4", "3", "2", "1"]
    finally:
        await store.close()
