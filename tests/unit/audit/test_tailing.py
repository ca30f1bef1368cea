"""A tail: what it shows, what ends it, and what is on record of it (R19). No disk, no lease: clocks and revisions."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from services.audit import tailing
from services.audit.lasting import AGAIN
from services.audit.ports import Ack, Draft, Filter
from services.audit.writers import CORE
from services.common.errors import PermissionDenied, Unauthenticated, Unavailable
from tests.unit.audit.support import NOW
from tests.unit.audit.test_service import Rig

REQUESTS = Filter({"event_type": "mcp_request"})


class Follower:
    """Somebody who follows the requests; ``seen`` are their users."""

    def __init__(self, rig: Rig, first: int | None = 0, stopping: asyncio.Event | None = None) -> None:
        self._rig, self._stopping = rig, stopping
        self.seen: list[str] = []
        self.task = asyncio.create_task(self._follow(first))

    async def _follow(self, first: int | None) -> None:
        async for records in self._rig.tailing.follow(self._rig.reader(), REQUESTS, first, self._stopping):
            self.seen += [self._rig.log.records[record.sequence]["user"] for record in records]

    async def sees(self, user: str) -> None:
        while user not in self.seen:
            assert not self.task.done(), self.task
            await asyncio.sleep(0)

    def tails(self) -> list[dict[str, Any]]:
        """The records of tails."""
        return [record for record in self._rig.log.records if record["action"] == "audit.Tail"]


@pytest_asyncio.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(tailing, "PAUSE", 0)
    monkeypatch.setattr(tailing, "IDLE", 0.001)
    rig = Rig()
    await rig.append(CORE, user="old")
    yield rig


@pytest.mark.req("I2.5", "R5", "R19")
async def test_a_tail_follows_from_where_it_is_told_ends_with_its_token_and_is_recorded_at_both_ends(rig: Rig) -> None:
    follower = Follower(rig)
    await follower.sees("old")
    await rig.append(CORE, user="new")
    await follower.sees("new")
    rig.clock.advance(61)
    await rig.append(CORE, user="late")
    await follower.task
    assert follower.seen == ["old", "new"]
    while len(follower.tails()) < 2:
        await asyncio.sleep(0)
    begin, end = follower.tails()
    assert (end["phase"], end["intent_id"], end["result"]) == ("outcome", begin["event_id"], "success")
    assert end["metadata"] == {"operator": "operator/admin", "events": "2"}
    assert begin["user"] == end["user"] == "admin"


async def test_a_tail_without_a_position_begins_now(rig: Rig) -> None:
    follower = Follower(rig, None)
    while not follower.tails():
        await asyncio.sleep(0)
    await rig.append(CORE, user="new")
    await follower.sees("new")
    assert follower.seen == ["new"]
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)
    while len(follower.tails()) < 2:
        await asyncio.sleep(0)
    assert follower.tails()[1]["metadata"]["events"] == "1", "whoever just goes away leaves an end as well"


@pytest.mark.req("R19", "R12")
async def test_a_tail_shows_nothing_more_once_its_reader_is_revoked(rig: Rig) -> None:
    follower = Follower(rig)
    await follower.sees("old")
    del rig.principals.identities["admin"]
    await rig.append(CORE, user="after")
    with pytest.raises(Unauthenticated):
        await follower.task
    assert follower.seen == ["old"]


@pytest.mark.req("R19", "R12", "R15")
@pytest.mark.parametrize("idle", [False, True])
async def test_a_tail_ends_once_policy_no_longer_lets_its_reader_read(rig: Rig, idle: bool) -> None:
    follower = Follower(rig)
    await follower.sees("old")
    rig.policy.readers, rig.policy.now = (), 2
    if not idle:
        await rig.append(CORE, user="after")
    with pytest.raises(PermissionDenied):
        await follower.task
    assert follower.seen == ["old"]
    while len(follower.tails()) < 3:
        await asyncio.sleep(0)
    begin, refused, end = follower.tails()
    assert refused["metadata"]["continues"] == begin["event_id"]
    assert [each["result"] for each in (begin, refused, end)] == ["success", "failure", "failure"]
    assert "denied" in end["error_message"]


@pytest.mark.req("R19", "R11")
async def test_a_tail_goes_on_under_a_policy_that_still_allows_it_and_asks_once_for_each_revision(rig: Rig) -> None:
    follower = Follower(rig)
    await follower.sees("old")
    rig.policy.now = 2
    for n in range(5):
        await rig.append(CORE, user=f"u{n}")
        await follower.sees(f"u{n}")
    assert rig.policy.asked == ["admin"] * 2
    follower.task.cancel()


@pytest.mark.req("R19", "R11")
async def test_a_decision_that_may_not_be_kept_is_made_again_for_what_comes_later(rig: Rig) -> None:
    rig.policy.until = NOW - timedelta(days=1)
    follower = Follower(rig)
    await follower.sees("old")
    await rig.append(CORE, user="at once")
    await follower.sees("at once")
    assert len(rig.policy.asked) == 1
    rig.clock.advance(AGAIN.total_seconds())
    await rig.append(CORE, user="later")
    await follower.sees("later")
    assert len(rig.policy.asked) == 2
    rig.policy.readers = ()
    rig.clock.advance(AGAIN.total_seconds())
    await rig.append(CORE, user="too late")
    with pytest.raises(PermissionDenied):
        await follower.task
    assert follower.seen == ["old", "at once", "later"]


@pytest.mark.req("R19", "R12")
async def test_without_a_lease_on_policy_nothing_goes_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> int:
        raise Unavailable("Whether policy still allows this cannot be told.")

    follower = Follower(rig)
    await follower.sees("old")
    monkeypatch.setattr(rig.policy, "revision", away)
    await rig.append(CORE, user="after")
    with pytest.raises(Unavailable):
        await follower.task
    assert follower.seen == ["old"]


@pytest.mark.req("R19")
async def test_tails_end_where_the_service_stops_and_their_ends_are_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = asyncio.Event()
    follower = Follower(rig, stopping=stopping)
    await follower.sees("old")
    append = rig.log.append

    async def slow(draft: Draft) -> Ack:
        for _ in range(9):
            await asyncio.sleep(0)
        return await append(draft)

    monkeypatch.setattr(rig.log, "append", slow)
    stopping.set()
    await follower.task
    await rig.lasting.ended()
    assert [each["result"] for each in follower.tails()] == ["success", "success"]
