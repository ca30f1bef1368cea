"""What the audit service needs from outside."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, Protocol

from services.audit.event import Identity
from services.common.deadline import Deadline
from services.common.errors import DomainError


class Capacity(IntEnum):
    """How many quarters of the queue a record may find taken and still wait in it, so that no flood of one kind keeps
    the kinds above it from being recorded (R25)."""

    GUEST = 2
    """Of a platform service."""

    SERVICE = 3
    """Of the gate's own services."""

    RESERVED = 4
    """An intent or outcome: something is about to be done, or was."""


@dataclass(slots=True)
class Draft:
    """A record that only lacks its ``sequence``."""

    fields: Mapping[str, Any]
    capacity: Capacity = Capacity.SERVICE

    @property
    def key(self) -> tuple[str, str]:
        """(writer, event_id): what makes a record the same record (R23)."""
        return self.fields["writer"], self.fields["event_id"]


@dataclass(slots=True)
class Ack:
    """The record is fsynced and a leaf of the tree."""

    event_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Record:
    """A stored record: leaf index, canonical JSON (exactly the bytes of the leaf), and the log that holds it."""

    sequence: int
    canonical_json: bytes
    log_id: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a record must be like; what is left out does not restrict.

    equal: exact values by column (``event_type``, ``user``, ...). since, until: half-open span of ``timestamp``.
    fields: path of a field (``paths``) and the values it may have as text. text: part of a metadata key or
    value or of ``error_message``, ASCII letters in either case. Durations are milliseconds, both included.
    """

    equal: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    fields: Sequence[tuple[str, Sequence[str]]] = ()
    text: str = ""
    min_duration_ms: float | None = None
    max_duration_ms: float | None = None

    @property
    def is_indexed(self) -> bool:
        """Whether an index leads to all that it finds, and to nothing else but by time: every record, those of one user
        (``tenant`` tells nobody apart who has none of that name), or of one request."""
        durations = (self.min_duration_ms, self.max_duration_ms)
        if self.fields or self.text or any(bound is not None for bound in durations):
            return False
        led = self.equal.keys() - {"tenant"}
        return led <= {"user", "request_id"} and (bool(led) or not self.equal)

    @property
    def is_everything(self) -> bool:
        """Whether it restricts nothing."""
        return self == Filter()

    def described(self) -> dict[str, str]:
        """The filter as metadata of the record of its use, whole: who asked for what cannot be hidden in its length."""
        times = {"since": self.since, "until": self.until}
        numbers = {"min_duration_ms": self.min_duration_ms, "max_duration_ms": self.max_duration_ms}
        return {
            **{f"filter.{name}": value for name, value in self.equal.items()},
            **{f"filter.{name}": moment.isoformat() for name, moment in times.items() if moment is not None},
            **{f"filter.{name}": repr(number) for name, number in numbers.items() if number is not None},
            **{f"filter.{path}"[:63]: json.dumps(list(values), ensure_ascii=False) for path, values in self.fields},
            **({"filter.text": self.text} if self.text else {}),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a search; ``cursor`` leads on where it is not empty."""

    records: Sequence[Record]
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """So many records with these values; ``bucket`` is the begin of their span in seconds since 1970."""

    values: tuple[str, ...]
    bucket: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Policy allowed it at a revision, and allows it until a time if policy stays as it is (R11)."""

    revision: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Proof:
    """Hashes that lead to the root of a signed tree head."""

    hashes: Sequence[bytes]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """An intent that has no outcome (R21). ``deadline`` is RFC 3339."""

    sequence: int
    writer: str
    event_id: str
    user: str
    action: str
    request_id: str
    deadline: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold: nothing from ``since`` on (RFC 3339; empty: nothing at all) is deleted."""

    id: str
    since: str
    reason: str
    user: str
    placed: str


class Log(Protocol):
    """The durable log."""

    async def append(self, draft: Draft) -> Ack:
        """Stores a record; returns when it is durable and in the tree. The same record is stored once.

        Raises:
            AlreadyExists: another record has its key.
            ResourceExhausted: too much waits.
            Unavailable: it could not be stored, or it is not known that it was.
        """
        ...

    async def append_all(self, drafts: Sequence[Draft]) -> Sequence[Ack | DomainError]:
        """Stores records together; the answers in order. Raises and answers as ``append``."""
        ...

    async def find(self, writer: str, event_id: str) -> Record | None:
        """The committed record with that key."""
        ...

    async def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        """The committed record with that key, and the event_id of the writer's outcome that refers to it."""
        ...

    async def search(self, filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        """The next page of a search, over all logs that this one is read with, oldest or newest first. Where much has
        to be opened it may be short or empty and have a cursor all the same.

        cursor: where the page before it ended. bounds: of ``bounds()``; what came later is not found.

        Raises:
            InvalidArgument: a cursor that no search of this order returned.
            TooSlow: even a part of it took too long.
        """
        ...

    async def bounds(self) -> str:
        """What is committed now, for ``search``."""
        ...

    async def narrowed(self, bounds: str, filter_: Filter) -> str:
        """The part of ``bounds`` outside of which a filter finds nothing, as far as that can be told cheaply."""
        ...

    async def count(self, filter_: Filter, by: Sequence[str], bucket_seconds: int, limit: int) -> Sequence[Count]:
        """How many records there are for each combination of columns and span of time, oldest first."""
        ...

    async def inclusion(self, sequence: int) -> tuple[Record, Proof]:
        """A record and its proof in the newest tree.

        Raises:
            NotFound: there is no such record.
        """
        ...

    async def inclusions(self, sequences: Sequence[int], size: int) -> Sequence[Sequence[bytes]]:
        """The hashes that lead from records to the root over the first ``size``."""
        ...

    async def consistency(self, old_size: int) -> Proof:
        """How the newest tree extends an earlier one.

        Raises:
            InvalidArgument: it was never that large.
        """
        ...

    async def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        """At most ``limit`` records with ``first <= sequence < end``, in the order asked.

        Raises:
            TooSlow: that took too long; ``bounded`` asks in parts.
        """
        ...

    async def retire(self, until: str, most: int) -> int:
        """Deletes at most so many segments of records that are older than a time (RFC 3339) and under no legal hold;
        returns how many. Once it is none, the mirror has lost them too.

        Raises:
            Unavailable: nothing was deleted, or it is not known.
        """
        ...

    async def retired(self, first: int, most: int) -> Sequence[bytes]:
        """Leaf hashes of deleted records, at most so many segments from a segment on."""
        ...

    async def tombstone(self) -> str:
        """The newest tombstone, or nothing."""
        ...

    async def holds(self) -> Sequence[Hold]:
        """Legal holds in force."""
        ...

    @property
    def first(self) -> int:
        """Leaf index of the first record that retention has not deleted."""
        ...

    async def grown(self, size: int) -> None:
        """Returns when the log has more than ``size`` records."""
        ...

    @property
    def size(self) -> int:
        """Number of committed records."""
        ...

    @property
    def checkpoint(self) -> str:
        """The newest signed tree head."""
        ...


class Principals(Protocol):
    """Verifies principal tokens (R5)."""

    async def verify(self, token: str) -> Identity:
        """Who the token speaks of.

        Raises:
            Unauthenticated: it is not valid.
            Unavailable: authn's keys cannot be had.
        """
        ...

    async def watch(self, token: str) -> Callable[[], Awaitable[None]]:
        """What raises, as ``verify``, once the credential behind a valid token has ended; not at the token's own end.
        It has to be called once a minute at least, since ends are not remembered for ever."""
        ...


class Policy(Protocol):
    """Asks authz about administration (R15)."""

    async def check(self, verb: str, token: str, request_id: str, deadline: Deadline) -> Grant:
        """Returns where the token's principal may do ``kubegate:audit:<verb>``.

        Raises:
            PermissionDenied: policy denies it.
            DomainError: authz could not decide.
        """
        ...

    async def revision(self) -> int:
        """The revision of policy that is in force, or was less than a second ago (R12).

        Raises:
            Unavailable: it cannot be told.
        """
        ...
