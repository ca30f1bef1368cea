"""A clock that moves only when told to (R27)."""

from datetime import UTC, datetime, timedelta

from services.common.clock import SystemClock


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


class SlippingClock(SystemClock):
    """The machine's clock, which the test can set forward, as a suspension of the machine does."""

    def __init__(self) -> None:
        self._slipped = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._slipped)

    def monotonic(self) -> float:
        return super().monotonic() + self._slipped

    def slip(self, seconds: float) -> None:
        """As if that much time had passed while nobody ran."""
        self._slipped += seconds
