"""What the audit service needs from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from services.audit.event import Identity
from services.common.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that only lacks its ``sequence``. ``reserved``: may use the capacity kept free (R25)."""

    fields: Mapping[str, Any]
    reserved: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """(writer, event_id): what makes a record the same record (R23)."""
        return self.fields["writer"], self.fields["event_id"]


@dataclass(frozen=True, slots=True)
class Ack:
    """The record is fsynced and a leaf of the tree."""

    event_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Record:
    """A stored record: leaf index and canonical JSON, exactly the bytes of the leaf."""

    sequence: int
    canonical_json: bytes


@dataclass(frozen=True, slots=True)
class Filter:
    """Exact values by column (``event_type``, ``user``, ...), and a half-open span of ``timestamp``."""

    equal: Mapping[str, str] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Orphan:
    """An intent that has no outcome (R21). ``deadline`` is RFC 3339."""

    sequence: int
    event_id: str
    user: str
    action: str
    request_id: str
    deadline: str


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

    async def find(self, writer: str, event_id: str) -> Record | None:
        """The committed record with that key."""
        ...

    async def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        """The committed record with that key, and the event_id of the writer's outcome that refers to it."""
        ...

    async def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        """At most ``limit`` records with ``first <= sequence < end``, in the order asked."""
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


class Policy(Protocol):
    """Asks authz about administration (R15)."""

    async def check_read(self, token: str, request_id: str, deadline: Deadline) -> None:
        """Returns where the token's principal may do ``kubegate:audit:read``.

        Raises:
            PermissionDenied: policy denies it.
            DomainError: authz could not decide.
        """
        ...
