"""Long readings in short statements: however large the log, one statement opens so many records and no more, and fewer
where the machine is slow. So nothing that is asked for is too large, only longer under way."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from services.audit.ports import Filter, Log, Record
from services.common.errors import DeadlineExceeded

PATIENCE = 30
"""Seconds that one statement may take: whoever asked for more has given up, and others wait."""

SCAN = 20_000
"""Records opened by one statement at most, where no index leads to those that are wanted."""

PAGE = 200
"""Records read and sent together; no statement is asked for fewer."""

T = TypeVar("T")


class TooSlow(DeadlineExceeded):
    """A statement was given up after ``PATIENCE``."""

    def __init__(self) -> None:
        super().__init__(
            f"The search took longer than {PATIENCE} seconds and was given up; narrow it to less time (since, until)."
        )


def patiently(search: Callable[[int], T]) -> T:
    """What ``search`` finds among at most ``SCAN`` records, or among fewer where those take too long.

    Raises:
        TooSlow: even ``PAGE`` of them do.
    """
    scan = SCAN
    while True:
        try:
            return search(scan)
        except TooSlow as error:
            scan = _fewer(scan, error)


async def next_page(log: Log, filter_: Filter, first: int, end: int) -> tuple[Sequence[Record], int]:
    """The next records of a log, at most ``PAGE``, with ``first <= sequence < end``, and where to go on; none of them
    tells nothing about what comes after.

    Raises:
        TooSlow: not even ``PAGE`` records could be looked at in time.
    """
    scan = end - first if filter_.is_everything else min(end - first, SCAN)
    while True:
        try:
            records = await log.page(filter_, first=first, end=first + scan, limit=PAGE, descending=False)
        except TooSlow as error:
            scan = _fewer(scan, error)
        else:
            return records, records[-1].sequence + 1 if len(records) == PAGE else first + scan


def _fewer(scan: int, error: TooSlow) -> int:
    if scan <= PAGE:
        raise error
    return max(scan // 10, PAGE)
