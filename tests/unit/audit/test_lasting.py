"""Exports and long queries: looked at again before each page, and on record with how they ended (R19)."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from services.audit import lasting
from services.audit.bounded import PAGE
from services.audit.lasting import AGAIN, GONE
from services.audit.ports import Filter
from services.audit.writers import CORE
from services.common.errors import DomainError, PermissionDenied, Unauthenticated, Unavailable
from tests.unit.audit.support import NOW
from tests.unit.audit.test_service import Rig

PAGES = 4
WAYS = pytest.mark.parametrize("action", ["audit.Export", "audit.Query"])


@pytest_asyncio.fixture
async def rig() -> Rig:
    rig = Rig()
    for _ in range(PAGES * PAGE - 20):
        await rig.append(CORE)
    return rig


def read(rig: Rig, action: str) -> AsyncGenerator[Any]:
    if action == "audit.Export":
        return rig.reading.export(rig.reader(), Filter(), proofs=False)
    return rig.reading.query(rig.reader(), Filter(), limit=PAGES * PAGE, descending=False, cursor="")


async def records(rig: Rig, action: str, count: int) -> list[dict[str, Any]]:
    """The records of the reading, once there are so many."""
    while len(found := [record for record in rig.log.records if record["action"] == action]) < count:
        await asyncio.sleep(0)
    return found


@pytest.mark.req("R19", "R15")
@WAYS
async def test_a_long_reading_is_two_records_and_asks_policy_once(rig: Rig, action: str) -> None:
    pages = [page async for page in read(rig, action)]
    assert len(pages) == PAGES
    begin, end = await records(rig, action, 2)
    assert (end["phase"], end["intent_id"], end["result"]) == ("outcome", begin["event_id"], "success")
    assert end["metadata"] == {"operator": "operator/admin", "events": str(sum(len(page[0]) for page in pages))}
    assert rig.policy.asked == ["admin"]


@pytest.mark.req("R19", "R12", "R5")
@WAYS
async def test_nothing_more_goes_out_once_the_reader_is_revoked(rig: Rig, action: str) -> None:
    pages = read(rig, action)
    await anext(pages)
    del rig.principals.identities["admin"]
    with pytest.raises(Unauthenticated):
        await anext(pages)
    _, end = await records(rig, action, 2)
    assert (end["result"], end["metadata"]["events"]) == ("failure", str(PAGE))
    assert "not valid" in end["error_message"]


@pytest.mark.req("R19", "R12")
@WAYS
async def test_nothing_more_goes_out_once_policy_no_longer_allows_it(rig: Rig, action: str) -> None:
    pages = read(rig, action)
    await anext(pages)
    rig.policy.now = 2
    await anext(pages)
    assert rig.policy.asked == ["admin"] * 2, "asked once for the new revision"
    rig.policy.readers, rig.policy.now = (), 3
    with pytest.raises(PermissionDenied):
        await anext(pages)
    begin, again, refused, end = await records(rig, action, 4)
    assert again["metadata"]["continues"] == refused["metadata"]["continues"] == begin["event_id"]
    assert [each["result"] for each in (again, refused, end)] == ["success", "failure", "failure"]


@pytest.mark.req("R19", "R5")
@WAYS
async def test_a_reading_may_outlast_its_token_but_no_change_of_policy_and_no_decision_that_is_not_kept(
    rig: Rig, action: str
) -> None:
    async def read_late(change: Any) -> type[DomainError] | None:
        pages = read(rig, action)
        await anext(pages)
        rig.clock.advance(61)
        await anext(pages)
        change()
        try:
            await anext(pages)
        except DomainError as error:
            return type(error)
        await pages.aclose()
        return None

    def revise() -> None:
        # As the true verifier does with a token that has expired.
        rig.policy.now += 1
        rig.policy.readers = ()

    assert await read_late(lambda: None) is None
    assert await read_late(revise) is PermissionDenied
    rig.policy.readers = ("admin",)
    rig.policy.until = NOW - timedelta(days=1)
    pages = read(rig, action)
    await anext(pages)
    rig.policy.readers = ()
    rig.clock.advance(AGAIN.total_seconds())
    with pytest.raises(PermissionDenied):
        await anext(pages)


@pytest.mark.req("R19", "R12")
@WAYS
async def test_without_a_lease_on_policy_nothing_goes_out(
    rig: Rig, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> int:
        raise Unavailable("Whether policy still allows this cannot be told.")

    pages = read(rig, action)
    await anext(pages)
    monkeypatch.setattr(rig.policy, "revision", away)
    with pytest.raises(Unavailable):
        await anext(pages)
    assert (await records(rig, action, 2))[1]["result"] == "error"


@pytest.mark.req("R19", "R25")
@WAYS
async def test_a_reader_who_takes_nothing_loses_the_place(
    rig: Rig, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting, "STALLED", 0.01)
    reached = asyncio.Event()

    async def stalls() -> None:
        pages = read(rig, action)
        try:
            async for _ in pages:
                reached.set()
                await asyncio.Event().wait()
        finally:
            await pages.aclose()

    task = asyncio.create_task(stalls())
    await reached.wait()
    assert rig.reading._readings._taken
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not rig.reading._readings._taken
    _, end = await records(rig, action, 2)
    assert (end["result"], end["error_message"]) == ("failure", "The reader took nothing for 0 seconds.")


@pytest.mark.req("R19")
@WAYS
async def test_a_reader_who_goes_away_is_on_record(rig: Rig, action: str) -> None:
    pages = read(rig, action)
    await anext(pages)
    await anext(pages)
    await pages.aclose()
    _, end = await records(rig, action, 2)
    assert (end["result"], end["error_message"], end["metadata"]["events"]) == ("failure", GONE, str(PAGE))
