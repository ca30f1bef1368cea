"""Receipts: C2SP tlog-proof, which proves offline that one event is in the log.

``c2sp.org/tlog-proof@v1``, ``extra <base64 of the event>``, ``index <leaf index>``, the hashes, an empty line and
the signed tree head. The extra data is the canonical event, so that the file needs nothing beside it but the
log's public key; it proves itself by hashing to the leaf.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from services.audit.checkpoint import NoteVerifier
from services.audit.merkle import check_inclusion, leaf_hash
from services.audit.ports import Proof, Record

_MAGIC = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


class BadReceipt(ValueError):
    """The file is malformed, or does not prove what it says."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What a receipt proves: the event, its leaf index, and the size of the tree that it is in."""

    event: bytes
    sequence: int
    size: int


def receipt(record: Record, proof: Proof) -> str:
    """The text of a .tlog-proof file."""
    lines = [_MAGIC, f"extra {_encoded(record.canonical_json)}", f"index {record.sequence}"]
    return "\n".join([*lines, *map(_encoded, proof.hashes), "", proof.checkpoint])


def check(text: str, verifier: NoteVerifier) -> Proven:
    """What a receipt proves, with the public key of the log.

    Raises:
        BadReceipt: it proves nothing.
    """
    proof, _, note = text.partition("\n\n")
    lines = proof.split("\n")
    extra = lines[1].removeprefix("extra ") if len(lines) > 2 else ""
    index = _INDEX.fullmatch(lines[2]) if len(lines) > 2 else None
    if lines[0] != _MAGIC or index is None or extra == lines[1]:
        raise BadReceipt("not a .tlog-proof that holds its event")
    try:
        event, *hashes = (_decoded(line) for line in (extra, *lines[3:]))
        checkpoint = verifier.open(note)
        check_inclusion(leaf_hash(event), int(index[1]), checkpoint.size, hashes, checkpoint.root)
    except ValueError as error:
        raise BadReceipt(f"the proof does not hold: {error}") from error
    return Proven(event, int(index[1]), checkpoint.size)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if _encoded(data) != text:
        raise binascii.Error("base64 in another spelling")
    return data
