"""Intents without outcome in a stream of events, keeping only those that are open (R21)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.common.deadline import OUTCOME_GRACE

Event = Mapping[str, Any]


class Unfinished:
    """What was begun, less what has ended. Events may come in any order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._open: dict[tuple[str, str], Event] = {}
        self._early: set[tuple[str, str]] = set()
        """Outcomes whose intent has not come, mostly for it lies before the first event."""
        self.add(events)

    def add(self, events: Iterable[Event]) -> None:
        """Takes more events."""
        for event in events:
            match event.get("phase"):
                case "intent":
                    key = event["writer"], event["event_id"]
                    if key not in self._early:
                        self._open[key] = event
                case "outcome":
                    key = event["writer"], event.get("intent_id", "")
                    if self._open.pop(key, None) is None:
                        self._early.add(key)

    def overdue(self, now: datetime, grace: float = OUTCOME_GRACE.total_seconds()) -> Sequence[Event]:
        """Those whose outcome is no longer taken: so many seconds have passed since their deadline."""
        return [each for each in self._open.values() if (now - _deadline(each)).total_seconds() > grace]

    def settled(self) -> datetime | None:
        """From when on no outcome is taken any more; nothing where none is awaited."""
        latest = max(map(_deadline, self._open.values()), default=None)
        return latest + OUTCOME_GRACE if latest else None


def _deadline(intent: Event) -> datetime:
    return datetime.fromisoformat(intent["deadline"])
