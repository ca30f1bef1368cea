"""A clock that moves only when told to (R27)."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Starts at a fixed time; ``advance`` moves wall and monotonic time together."""

    def __init__(self, start: datetime = datetime(2026, 11, 22, 12, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
