"""Deleting what is old enough, so that the rest still proves itself.

Whole segments of ``SEGMENT`` events are deleted, from the beginning of the log on. What stays of them is their leaf
hashes, so that every signed root can still be recomputed, and a tombstone that the log signs:
``<origin>\\nretired\\n<events>\\n<base64 root over them>\\n<time>\\n``. All of those events are older than the time.
Without that note deleted events are missing events.

A legal hold is an event itself (``PLACED``), until another one releases it: it cannot be removed from the log, nor be
deleted by retention while it is in force, for it is younger than what it keeps.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from services.audit import canonical
from services.audit.checkpoint import BadCheckpoint, NoteSigner
from services.audit.keyring import KeyRing
from services.audit.merkle import STEP, Tree
from services.audit.ports import Hold
from services.audit.writers import AUDIT

SEGMENT = 1 << STEP
"""Events that are deleted together: the leaves under one kept node of the tree."""

PLACED = "audit.PlaceHold"
RELEASED = "audit.ReleaseHold"

_HASH = 32
_SEGMENTS = "SELECT segment, leaves FROM retired ORDER BY segment"
_NOTES = "SELECT number, size, note FROM tombstones ORDER BY number"


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The first ``size`` events, whose tree has this root, were deleted; all were older than ``until`` (RFC 3339)."""

    origin: str
    size: int
    root: bytes
    until: str

    def text(self) -> str:
        """The signed text, newline included."""
        return f"{self.origin}\nretired\n{self.size}\n{base64.b64encode(self.root).decode()}\n{self.until}\n"

    def sign(self, signer: NoteSigner) -> str:
        """The signed note."""
        text = self.text()
        return f"{text}\n{signer.signature(text)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The tombstone in a signed text.

        Raises:
            BadCheckpoint: it is not one in its only spelling.
        """
        lines = text.split("\n")
        try:
            found = cls(lines[0], int(lines[2]), base64.b64decode(lines[3], validate=True), lines[4])
        except (IndexError, ValueError) as error:
            raise BadCheckpoint("not a tombstone") from error
        if found.text() != text or found.size < 0 or found.size % SEGMENT:
            raise BadCheckpoint("not a tombstone in its canonical form")
        return found


@dataclass(frozen=True, slots=True)
class Retired:
    """What a store keeps of deleted events: their leaf hashes, a segment each, the tree over them, and the newest
    signed tombstone."""

    segments: Sequence[bytes]
    tree: Tree
    note: str
    until: str

    @property
    def size(self) -> int:
        """Number of deleted events, which is the leaf index of the first that is kept."""
        return self.tree.size

    def leaves(self) -> Iterator[bytes]:
        """Their leaf hashes in order."""
        return (leaf for segment in self.segments for leaf in split(segment))


def split(segment: bytes) -> Iterator[bytes]:
    """The leaf hashes of a segment."""
    return (segment[at : at + _HASH] for at in range(0, len(segment), _HASH))


def slice_of(segments: Iterable[tuple[int, bytes]], first: int, end: int) -> Sequence[bytes]:
    """The leaf hashes ``first`` to ``end`` of numbered segments, as far as they lie in them."""
    found: list[bytes] = []
    for segment, leaves in segments:
        begin = segment * SEGMENT
        found += list(split(bytes(leaves)))[max(first - begin, 0) : end - begin]
    return found


def read_retired(connection: Any, keys: KeyRing) -> Retired:
    """What the tables ``retired`` and ``tombstones`` of a connection hold, checked.

    Raises:
        BadCheckpoint: the leaf hashes are not those that a tombstone of this log speaks of.
    """
    segments = connection.execute(_SEGMENTS).fetchall()
    notes = connection.execute(_NOTES).fetchall()
    if [row[0] for row in segments] != list(range(len(segments))):
        raise BadCheckpoint("leaf hashes of deleted events are missing")
    if [row[0] for row in notes] != list(range(len(notes))):
        raise BadCheckpoint("a tombstone is missing")
    found = Tombstone(keys.newest.name, 0, Tree().root(), "")
    for _, size, note in notes:
        following = Tombstone.parse(keys.text_of(note))
        if following.origin != found.origin or following.size != size or size < found.size:
            raise BadCheckpoint("a tombstone does not follow from the one before")
        found = following
    kept = [bytes(row[1]) for row in segments]
    if any(len(segment) != SEGMENT * _HASH for segment in kept) or len(kept) * SEGMENT != found.size:
        raise BadCheckpoint("leaf hashes of deleted events and their tombstone disagree")
    tree = Tree.of(leaf for segment in kept for leaf in split(segment))
    if tree.root() != found.root:
        raise BadCheckpoint("leaf hashes of deleted events are altered")
    return Retired(kept, tree, notes[-1][2] if notes else "", found.until)


def signed_anew(retired: Retired, signer: NoteSigner) -> str:
    """The tombstone of what is deleted, by another key."""
    return Tombstone(signer.verifier.name, retired.size, retired.tree.root(), retired.until).sign(signer)


def in_force(events: Iterable[bytes]) -> Sequence[Hold]:
    """The holds that were placed and not released, in the order of the log."""
    holds: dict[str, Hold] = {}
    released: set[str] = set()
    for event in events:
        fields = canonical.decode(event)
        metadata = fields["metadata"]
        if (fields["writer"], fields["event_type"], fields["result"]) != (AUDIT, "admin", "success"):
            continue
        if fields["action"] == PLACED:
            hold = Hold(
                fields["event_id"], metadata.get("since", ""), metadata.get("reason", ""), fields["user"],
                fields["timestamp"],
            )  # fmt: skip
            holds[hold.id] = hold
        elif fields["action"] == RELEASED:
            released.add(metadata.get("hold", ""))
    return [hold for hold in holds.values() if hold.id not in released]


def limit(until: str, holds: Sequence[Hold]) -> str:
    """The time before which events may be deleted, by RFC 3339 text: that of the policy, or of the earliest hold."""
    return min([until, *(hold.since for hold in holds)])


def deletable(connection: Any, first: int, size: int, until: str, most: int) -> Sequence[bytes]:
    """The leaf hashes of the segments from event ``first`` on, at most ``most``, all of whose events are older than
    ``until``. Reads the table ``events`` of a connection.

    Raises:
        LookupError: events are missing; nothing may be deleted then.
    """
    segments: list[bytes] = []
    while len(segments) < most and (end := first + SEGMENT) <= size:
        query = "SELECT leaf, timestamp FROM events WHERE sequence >= ? AND sequence < ? ORDER BY sequence"
        rows = connection.execute(query, (first, end)).fetchall()
        if len(rows) != SEGMENT:
            raise LookupError(f"of the events {first} to {end - 1} some are missing")
        if max(row[1] for row in rows) >= until:
            break
        segments.append(b"".join(bytes(row[0]) for row in rows))
        first = end
    return segments
