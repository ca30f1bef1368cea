"""Deadlines that shrink from hop to hop, so that nobody works for a caller who has given up."""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from services.common.errors import DeadlineExceeded

HOP_RESERVE = 0.020
"""Seconds that a hop keeps for itself when it passes a deadline on."""

MINIMUM = 0.100
"""A question with less than this left is refused instead of being asked."""

OUTCOME_GRACE = timedelta(seconds=180)
"""Time that an outcome may take on its way after the deadline of its intent: the core sends it again for two minutes
(R20). After it audit no longer takes it, so what is reported as unknown stays unknown (R21)."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the process's monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, negative when it has passed."""
        return self.at - time.monotonic()

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining() <= 0

    def child(self, reserve: float = HOP_RESERVE) -> "Deadline":
        """The deadline to give to the next hop.

        Raises:
            DeadlineExceeded: less than ``MINIMUM`` would be left.
        """
        child = Deadline(self.at - reserve)
        if child.remaining() < MINIMUM:
            raise DeadlineExceeded("Not enough time is left to finish this request; try again with more time.")
        return child
