"""Time as the cluster sees it. The seed winds it back, so that its workloads have a past."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The wall clock, or a fixed moment while `moment` is set."""

    def __init__(self) -> None:
        self.moment: float | None = None

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() if self.moment is None else self.moment

    def stamp(self) -> str:
        """Now, as Kubernetes writes it."""
        return stamp(self.now())


def stamp(moment: float) -> str:
    """RFC 3339 with whole seconds, as `metav1.Time` is written."""
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp_nano(moment: float) -> str:
    """RFC 3339 with nine decimals, as container runtimes prefix log lines."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def parse(text: str) -> float:
    """Inverse of `stamp`; raises ValueError for what is not a timestamp."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a timestamp needs a time zone")
    return moment.timestamp()
