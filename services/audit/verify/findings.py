"""What a verification can come to, and the check of one record."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.audit.canonical import NotCanonical, decode
from services.audit.checkpoint import BadCheckpoint, OtherKey, root_text


class Altered(Exception):
    """Something is not as it was recorded. ``sequence`` is the first leaf index concerned, where known."""

    def __init__(self, message: str, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence


class Unreadable(Exception):
    """It cannot be told whether anything is altered."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found intact. ``root`` is that of the last signed tree head that was reached; ``retired`` of the
    events were deleted by retention, and their leaf hashes are left."""

    events: int
    checkpoints: int
    root: bytes
    mirrored: int | None = None
    retired: int = 0
    keys: Sequence[str] = ()
    """The keys of a store, the newest last: each signed what was recorded in its time."""

    @property
    def root_text(self) -> str:
        """The root as everybody is shown it."""
        return root_text(self.root)


def signed_otherwise(what: str, error: BadCheckpoint) -> str:
    """Why a signed note is not what it should be."""
    if isinstance(error, OtherKey):
        return (
            f"{what} is {error}: where the log's key was rotated since, name the key of that time with --key "
            "(`kubegate audit verify --json` lists the keys of the log), else it is forged"
        )
    return f"{what} is altered: {error}"


def record(event: bytes, expected: int, name: str) -> dict[str, Any]:
    """The fields of an event that stands at its own leaf index."""
    try:
        fields = decode(event)
    except NotCanonical as error:
        raise Altered(f"{name} is altered: {error}", expected) from error
    sequence = fields.get("sequence")
    if sequence != expected or isinstance(sequence, bool):
        if isinstance(sequence, int) and sequence > expected:
            raise Altered(f"{name} is missing or out of place: event {sequence} stands there", expected)
        raise Altered(f"{name} is altered or out of place: it says that it is event {sequence}", expected)
    return fields
