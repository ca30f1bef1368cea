"""What group commit and its readers need of an engine; one contract suite holds for both (SQLite, PostgreSQL)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from services.audit.adapters.batch import Committed
from services.audit.keyring import KeyRing
from services.audit.ports import Count, Draft, Filter, Found, Hold, Orphan, Record


class Reads(Protocol):
    """Blocking reads of committed records; safe for several threads, one at a time."""

    def find(self, writer: str, event_id: str) -> Record | None:
        """The record with that key."""
        ...

    def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        """The record with that key, and the event_id of its outcome, over all logs of the engine."""
        ...

    def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        """At most ``limit`` records of this log with ``first <= sequence < end``."""
        ...

    def search(self, filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        """A page over all logs of the engine."""
        ...

    def bounds(self) -> str:
        """What is committed now, for ``search``."""
        ...

    def narrowed(self, bounds: str, filter_: Filter) -> str:
        """The part of ``bounds`` outside of which a filter finds nothing."""
        ...

    def count(self, filter_: Filter, by: Sequence[str], bucket_seconds: int, limit: int) -> Sequence[Count]:
        """Counts over all logs of the engine."""
        ...

    def nodes(self, level: int, first: int, end: int) -> Sequence[bytes]:
        """Kept nodes of this log's tree."""
        ...

    def unfinished(self, after: Mapping[str, int]) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        """Intents among the next records of a log that have no outcome in any, and where to go on; the same positions
        where nothing is left. ``after``: the leaf index to begin at, by log."""
        ...

    def without_outcome(self, intents: Sequence[Orphan]) -> Sequence[Orphan]:
        """Those that have no outcome in any log of the engine."""
        ...

    def retired(self, first: int, most: int) -> Sequence[bytes]:
        """Leaf hashes of deleted events of this log, at most so many segments from a segment on."""
        ...

    def tombstone(self) -> str:
        """The newest tombstone of this log, or nothing."""
        ...

    def holds(self) -> Sequence[Hold]:
        """Legal holds in force, over all logs of the engine."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


class Store(Protocol):
    """The writing side, for one thread."""

    name: str
    """Where it is, without secrets."""

    errors: type[Exception]
    """What the engine raises."""

    keys: KeyRing
    checkpoint: str
    """The newest signed tree head."""

    @property
    def first(self) -> int:
        """Leaf index of the first record that retention has not deleted."""
        ...

    @property
    def size(self) -> int:
        """Number of committed records, deleted ones included."""
        ...

    def retire(self, until: str, most: int) -> int:
        """Deletes at most so many segments of records older than a time; returns how many. After an error, ``recover``
        comes first."""
        ...

    def commit(self, drafts: Sequence[Draft]) -> Committed:
        """Stores drafts in one transaction; durable on return. After an error, ``recover`` comes first."""
        ...

    def recover(self) -> Sequence[bytes]:
        """After a failed commit: takes up what is really there; returns the records that are."""
        ...

    def events(self, first: int = 0) -> Iterator[bytes]:
        """The canonical JSON of committed records, from a leaf index on."""
        ...

    def root(self, size: int) -> bytes:
        """The root over the first ``size`` records."""
        ...

    def reads(self) -> Reads:
        """A reading connection of its own."""
        ...

    def close(self) -> None:
        """Closes it and lets another process have it."""
        ...
