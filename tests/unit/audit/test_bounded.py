"""Long readings in short statements: nothing is lost between them, and slowness makes them shorter, not wrong."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.audit import bounded
from services.audit.bounded import PAGE, SCAN, TooSlow, next_page, patiently
from services.audit.ports import Filter, Found, Record
from services.audit.reading import SEARCHING
from services.audit.writers import CORE
from tests.unit.audit.support import MemoryLog, draft
from tests.unit.audit.test_service import Rig


class SlowLog(MemoryLog):
    """Gives up where a statement would open more than ``most`` records."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.opened: list[int] = []

    async def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        self.opened.append(end - first)
        if end - first > self.most:
            raise TooSlow
        return await super().page(filter_, first=first, end=end, limit=limit, descending=descending)


async def read(log: MemoryLog, filter_: Filter) -> list[int]:
    found, position = list[int](), 0
    while position < log.size:
        records, position = await next_page(log, filter_, position, log.size)
        found += [record.sequence for record in records]
    return found


@pytest.mark.req("I4.4")
@pytest.mark.parametrize("most", [10**9, 700, PAGE])
async def test_every_record_is_read_once_however_few_a_slow_machine_manages(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(bounded, "SCAN", 1000)
    log = SlowLog(most)
    for n in range(2500):
        await log.append(draft(user="rare" if n % 900 == 7 else "common"))
    assert await read(log, Filter({"user": "rare"})) == [7, 907, 1807]
    assert await read(log, Filter()) == list(range(2500))
    assert max(log.opened[:3]) <= 1000, "what is not wanted is opened in parts"


@pytest.mark.req("I4.4")
async def test_where_not_even_a_page_can_be_read_in_time_the_error_says_how_to_ask_for_less() -> None:
    log = SlowLog(PAGE - 1)
    for _ in range(PAGE):
        await log.append(draft())
    with pytest.raises(TooSlow, match="narrow it to less time"):
        await read(log, Filter({"user": "x"}))
    tried: list[int] = []

    def never(scan: int) -> Any:
        tried.append(scan)
        raise TooSlow

    with pytest.raises(TooSlow):
        patiently(never)
    assert (tried[0], tried[-1]) == (SCAN, PAGE)


@pytest.mark.req("I4.4", "R27")
async def test_a_search_that_finds_nothing_for_long_hands_out_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part takes a third of the time; what is found in between gives it new time."""
    rig = Rig()
    for n in range(10):
        await rig.append(CORE, user=f"user-{n}")
    search, asked = rig.log.search, list[str]()

    async def in_parts(filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        if filter_ == Filter():
            return await search(filter_, cursor=cursor, bounds=bounds, limit=limit, descending=descending)
        rig.clock.advance(SEARCHING / 3)
        asked.append(cursor)
        at = int(cursor[1:] or 0)
        records = await rig.log.page(filter_, first=at, end=at + 1, limit=1, descending=False)
        return Found(records, f"a{at + 1}" if at < 9 else "")

    monkeypatch.setattr(rig.log, "search", in_parts)
    wanted = Filter({"user": "user-2"})
    assert await rig.query(filter_=wanted) == ([2], "a6")
    assert await rig.query(filter_=wanted, cursor="a6") == ([], "a9")
    assert await rig.query(filter_=wanted, cursor="a9") == ([], "")
    assert len(asked) == 10
