"""Lines of JSON: an export with the proof beside it, or a copy of the mirror against the store."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from services.audit.checkpoint import BadCheckpoint, Checkpoint, NoteVerifier
from services.audit.merkle import BadProof, Tree, check_inclusion, leaf_hash
from services.audit.retention import Tombstone
from services.audit.verify.findings import Altered, Report, Unreadable, record, signed_otherwise
from services.audit.verify.store import leaves_of


@dataclass(frozen=True, slots=True)
class Leaves:
    """Leaf hashes that lead to a signed root: from the store, or from the proof beside an export.

    ``complete``: the export must have all of them; else it may end earlier. ``first``: events before it were deleted
    by retention.
    """

    hashes: Sequence[bytes]
    complete: bool
    first: int = 0

    @classmethod
    def of_store(cls, path: Path, verifier: NoteVerifier, heads: Mapping[str, str] = MappingProxyType({})) -> "Leaves":
        """The leaves of a store, which is checked first, with ``heads``. Raises as ``verify_store``."""
        hashes, first = leaves_of(path, verifier, heads)
        return cls(hashes, complete=False, first=first)

    @classmethod
    def of_proof(cls, text: str, verifier: NoteVerifier) -> "Leaves":
        """The leaves in the proof that ``kubegate audit export`` writes (see ``prove``).

        Raises:
            Altered: they do not lead to the signed root, or it is not signed by the log.
            Unreadable: it is not such a proof.
        """
        try:
            value = _parsed(text)
            note, hashes = str(value["checkpoint"]), [base64.b64decode(leaf, validate=True) for leaf in value["leaves"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Unreadable("the proof beside the export cannot be read") from error
        try:
            head = verifier.open(note)
        except BadCheckpoint as error:
            raise Altered(signed_otherwise("the signed root of the export", error)) from error
        if (head.size, head.root) != (len(hashes), Tree.of(hashes).root()):
            raise Altered("the proof is altered: its leaves do not lead to its signed root")
        return cls(hashes, complete=True, first=_first(value, hashes, verifier))

    def check_heads(self, heads: Mapping[str, str], verifier: NoteVerifier) -> None:
        """Checks that they lead to tree heads that were kept elsewhere, by where those lie.

        Raises:
            Altered: names the tree head that they do not have.
        """
        for where, note in heads.items():
            try:
                head = verifier.open(note)
            except BadCheckpoint as error:
                raise Altered(f"{where} is not a signed root of this log: {error}") from error
            if head.size > len(self.hashes):
                raise Altered(f"event {len(self.hashes)} is missing: {where} is a signed root over {head.size} events")
            if Tree.of(self.hashes[: head.size]).root() != head.root:
                raise Altered(f"one of the events 0 to {head.size - 1} is altered: {where} is another signed root")


def size_of(note: str) -> int:
    """The number of events under a signed tree head. Its signature is for the verification to judge.

    Raises:
        Unreadable: it is not a signed tree head.
    """
    return _head(note).size


def prove(note: str, events: Iterable[bytes], retired: Iterable[bytes] = (), tombstone: str = "") -> str:
    """What makes an export verifiable by itself: the signed tree head and the leaves that lead to it, as JSON; and of
    deleted events their leaf hashes and the signed ``tombstone``.

    Raises:
        Altered: the events do not lead to it.
    """
    leaves = [*retired, *(leaf_hash(event) for event in events)]
    head = _head(note)
    if (head.size, head.root) != (len(leaves), Tree.of(leaves).root()):
        raise Altered(f"the {len(leaves)} events that the service sent do not lead to its signed root")
    encoded = [base64.b64encode(leaf).decode() for leaf in leaves]
    kept = {"tombstone": tombstone} if tombstone else {}
    return json.dumps({"checkpoint": note, **kept, "leaves": encoded}, indent=0) + "\n"


def _head(note: str) -> Checkpoint:
    try:
        return Checkpoint.parse(note.rpartition("\n\n")[0] + "\n")
    except BadCheckpoint as error:
        raise Unreadable("the service sent a malformed tree head") from error


def verify_lines(lines: Iterable[bytes], leaves: Leaves) -> Report:
    """Checks the lines of an export or of a copy of the mirror, from the first event on.

    Raises:
        Altered: names the first event that is altered, missing or out of place.
    """
    count = leaves.first
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            raise Altered(f"event {count} is altered: its line is cut off", count)
        event = line[:-1]
        record(event, count, f"event {count} (line {number})")
        if count >= len(leaves.hashes):
            raise Altered(f"event {count} (line {number}) is not in the log", count)
        if leaf_hash(event) != leaves.hashes[count]:
            raise Altered(f"event {count} (line {number}) is altered: it does not hash to its leaf", count)
        count += 1
    if leaves.complete and count < len(leaves.hashes):
        raise Altered(f"event {count} is missing: the signed root covers {len(leaves.hashes)} events", count)
    return Report(count, 1, Tree.of(leaves.hashes).root(), retired=leaves.first)


def _first(value: Mapping[str, Any], hashes: Sequence[bytes], verifier: NoteVerifier) -> int:
    """The first event that is not deleted, as the log's signed tombstone in a proof says."""
    if "tombstone" not in value:
        return 0
    try:
        tombstone = Tombstone.parse(verifier.verify(str(value["tombstone"])))
    except BadCheckpoint as error:
        raise Altered(signed_otherwise("the tombstone of deleted events", error)) from error
    gone = hashes[: tombstone.size]
    if tombstone.origin != verifier.name or (tombstone.size, tombstone.root) != (len(gone), Tree.of(gone).root()):
        raise Altered("the tombstone of deleted events is of others than the proof has")
    return tombstone.size


def verify_export(
    lines: Iterable[bytes], proof: str, verifier: NoteVerifier, heads: Mapping[str, str] = MappingProxyType({})
) -> Report:
    """Checks an export against the proof beside it: of the whole log (``prove``), or of what a filter found.
    ``heads``: tree heads that were kept elsewhere, by where they lie; only the whole log can be held against them.

    Raises:
        Altered: names the first event that is altered, missing or out of place. What a filter left out cannot be
            missed: its proof shows only that each event is in the log, and in its order.
        Unreadable: it is not such a proof, or says nothing about ``heads``.
    """
    value = _parsed(proof)
    if "inclusion" not in value:
        leaves = Leaves.of_proof(proof, verifier)
        leaves.check_heads(heads, verifier)
        return verify_lines(lines, leaves)
    if heads:
        raise Unreadable("a filtered export shows nothing of other tree heads; verify them against the whole log")
    try:
        head = verifier.open(str(value["checkpoint"]))
        paths = [(int(sequence), [_decoded(each) for each in hashes]) for sequence, hashes in value["inclusion"]]
    except BadCheckpoint as error:
        raise Altered(signed_otherwise("the signed root of the export", error)) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Unreadable("the proof beside the export cannot be read") from error
    remaining, last, count = iter(paths), -1, 0
    for line in lines:
        sequence, hashes = next(remaining, (None, []))
        if sequence is None or sequence <= last:
            raise Altered(f"line {count + 1} has no proof, or is out of order", last + 1)
        if not line.endswith(b"\n"):
            raise Altered(f"event {sequence} is altered: its line is cut off", sequence)
        event = line[:-1]
        record(event, sequence, f"event {sequence} (line {count + 1})")
        try:
            check_inclusion(leaf_hash(event), sequence, head.size, hashes, head.root)
        except BadProof as error:
            raise Altered(f"event {sequence} (line {count + 1}) is altered: {error}", sequence) from error
        last, count = sequence, count + 1
    if (rest := next(remaining, None)) is not None:
        raise Altered(f"event {rest[0]} is missing: the proof beside the export has it", rest[0])
    return Report(count, 1, head.root)


def _parsed(proof: str) -> dict[str, Any]:
    try:
        value = json.loads(proof)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the proof beside the export cannot be read") from error
    if not isinstance(value, dict):
        raise Unreadable("the proof beside the export cannot be read")
    return value


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
