"""Builds events, signers, stores and logs for the tests of the audit service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import canonical
from services.audit.adapters.engine import Reads
from services.audit.adapters.mirror import Mirror
from services.audit.adapters.sqlite_reads import cursor_at, span
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.checkpoint import NoteSigner, origin_of
from services.audit.event import Event, EventType, Identity, Phase, Result
from services.audit.ports import Ack, Count, Draft, Filter, Found, Grant, Hold, Proof, Record
from services.audit.retention import in_force
from services.audit.writers import CORE
from services.common.deadline import Deadline
from services.common.errors import DomainError, NotFound, PermissionDenied, Unauthenticated
from services.common.ids import uuid7

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def signer(log_id: str = "test") -> NoteSigner:
    """The same key in every test."""
    return NoteSigner(origin_of(log_id), KEY)


def event(**changes: Any) -> Event:
    """A valid record of one read."""
    base = Event(
        event_id=uuid7(),
        timestamp=NOW,
        event_type=EventType.MCP_REQUEST,
        action="list_pods",
        result=Result.SUCCESS,
        user="alice",
        resource="pods",
        namespace="default",
        request_id="r-1",
    )
    return replace(base, **changes)


def intent(**changes: Any) -> Event:
    """A valid intent."""
    return event(
        **{
            "action": "scale_deployment",
            "phase": Phase.INTENT,
            "result": Result.UNKNOWN,
            "deadline": NOW + timedelta(seconds=10),
        }
        | changes
    )


def outcome(intent_id: str, **changes: Any) -> Event:
    """A valid outcome."""
    return event(**{"action": "scale_deployment", "phase": Phase.OUTCOME, "intent_id": intent_id} | changes)


def draft(writer: str = CORE, **changes: Any) -> Draft:
    """A draft of an event."""
    return Draft(event(**changes).fields(writer))


def fill(path: Path, commits: Sequence[int]) -> None:
    """Makes ``audit.db`` and ``audit.log`` in a directory, with so many events in each commit."""
    store = SqliteStore(path / "audit.db", signer())
    mirror = Mirror(path / "audit.log", store.events())
    number = 0
    for size in commits:
        drafts = [draft(user=f"user-{number + i}", metadata={"n": str(number + i)}) for i in range(size)]
        number += size
        mirror.catch_up(store.commit(drafts).lines)
    mirror.close()
    store.close()


class MemoryLog:
    """The port ``Log`` without a disk."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.drafts: list[Draft] = []
        self.counts: list[Count] = []
        self._growth = asyncio.Event()

    async def append(self, draft: Draft) -> Ack:
        self.drafts.append(draft)
        self.records.append({**draft.fields, "sequence": len(self.records)})
        self._growth.set()
        self._growth.clear()
        return Ack(draft.key[1], len(self.records) - 1)

    async def append_all(self, drafts: Sequence[Draft]) -> Sequence[Ack | DomainError]:
        return [await self.append(draft) for draft in drafts]

    async def find(self, writer: str, event_id: str) -> Record | None:
        return next((_record(r) for r in self.records if (r["writer"], r["event_id"]) == (writer, event_id)), None)

    async def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        await asyncio.sleep(0)  # As a disk does, it lets others run before it answers.
        closed = (r for r in self.records if (r["writer"], r.get("intent_id")) == (writer, event_id))
        return await self.find(writer, event_id), next((r["event_id"] for r in closed), None)

    async def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        found = [r for r in self.records[first:end] if all(r.get(k, "") == v for k, v in filter_.equal.items())]
        return [_record(r) for r in (reversed(found) if descending else found)][:limit]

    async def bounds(self) -> str:
        return str(self.size)

    async def narrowed(self, bounds: str, filter_: Filter) -> str:
        return bounds

    async def search(self, filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        first, end = span(cursor, int(bounds), descending=descending)
        records = await self.page(filter_, first=first, end=end, limit=limit + 1, descending=descending)
        if len(records) <= limit:
            return Found(records)
        last = records[limit - 1].sequence
        return Found(records[:limit], cursor_at(last if descending else last + 1, descending=descending))

    async def count(self, filter_: Filter, by: Sequence[str], bucket_seconds: int, limit: int) -> Sequence[Count]:
        return self.counts[:limit]

    async def inclusion(self, sequence: int) -> tuple[Record, Proof]:
        if sequence >= self.size:
            raise NotFound("There is no such event.")
        return _record(self.records[sequence]), Proof([], self.checkpoint)

    async def inclusions(self, sequences: Sequence[int], size: int) -> Sequence[Sequence[bytes]]:
        return [[] for _ in sequences]

    async def consistency(self, old_size: int) -> Proof:
        return Proof([], self.checkpoint)

    async def retire(self, until: str, most: int) -> int:
        raise NotImplementedError

    async def retired(self, first: int, most: int) -> Sequence[bytes]:
        return ()

    async def tombstone(self) -> str:
        return ""

    async def holds(self) -> Sequence[Hold]:
        return in_force(canonical.encode(record) for record in self.records)

    @property
    def first(self) -> int:
        return 0

    async def grown(self, size: int) -> None:
        while self.size <= size:
            await self._growth.wait()

    @property
    def size(self) -> int:
        return len(self.records)

    @property
    def checkpoint(self) -> str:
        return f"checkpoint over {self.size}"


def _record(fields: Mapping[str, Any]) -> Record:
    return Record(fields["sequence"], canonical.encode(fields))


class NamedPrincipals:
    """Tokens are names; those not known are refused."""

    def __init__(self, **identities: Identity) -> None:
        self.identities = identities

    async def verify(self, token: str) -> Identity:
        try:
            return self.identities[token]
        except KeyError:
            raise Unauthenticated("The principal token is not valid; authenticate again.") from None

    async def watch(self, token: str) -> Callable[[], Awaitable[None]]:
        async def lives() -> None:
            await self.verify(token)

        return lives


def identity(subject: str = "alice", party: str = CORE, **changes: Any) -> Identity:
    """A principal of our own issuer."""
    base = Identity("kubegate", subject, f"key-{subject}", "api_key", "", party, NOW + timedelta(seconds=60))
    return replace(base, **changes)


class FixedPolicy:
    """Lets the named tokens read. ``now`` is the revision; ``until``: how long an answer may be kept."""

    def __init__(self, *readers: str) -> None:
        self.readers = readers
        self.asked: list[str] = []
        self.now = 1
        self.until = NOW + timedelta(days=1)

    async def check(self, verb: str, token: str, request_id: str, deadline: Deadline) -> Grant:
        self.asked.append(token)
        if token not in self.readers:
            raise PermissionDenied("Reading the audit log is denied: no grant")
        return Grant(self.now, self.until)

    async def revision(self) -> int:
        return self.now


def sequences(answers: Sequence[Any]) -> list[int]:
    """Leaf indices of what is acknowledged."""
    return [answer.sequence for answer in answers if isinstance(answer, Ack)]


def search_all(reads: Reads, chosen: Filter, *, descending: bool = False, limit: int = 2) -> list[Record]:
    """Everything that a search finds, page by page."""
    bounds, cursor, found = reads.bounds(), "", list[Record]()
    while True:
        page = reads.search(chosen, cursor=cursor, bounds=bounds, limit=limit, descending=descending)
        found += page.records
        cursor = page.cursor
        if not cursor:
            return found
