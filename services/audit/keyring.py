"""The keys that a log was signed with, one after the other.

A key hands over to the next in a note that both sign: ``<origin>\\nrotate\\n<checkpoint>\\n<old>\\n<new>\\n``, where
``checkpoint`` is the number of the first signed root of the new key. So whoever trusts one key of the log can
follow it to all others, and a key that was retired cannot sign what comes later unseen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.audit.checkpoint import BadCheckpoint, BadKey, Checkpoint, NoteSigner, NoteVerifier


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as the store keeps it: in force from the signed root ``first`` on; no handover for the first key."""

    vkey: str
    first: int
    handover: str


def hand_over(old: NoteSigner, new: NoteSigner, first: int) -> KeyRow:
    """The row of a new key, signed by both."""
    text = _text(old.verifier, new.verifier, first)
    return KeyRow(new.verifier.vkey, first, f"{text}\n{old.signature(text)}{new.signature(text)}")


def _text(old: NoteVerifier, new: NoteVerifier, first: int) -> str:
    return f"{old.name}\nrotate\n{first}\n{old.vkey}\n{new.vkey}\n"


class KeyRing:
    """The keys of one log in order. Nothing is in it that its predecessor did not hand over to."""

    def __init__(self, rows: Iterable[KeyRow]) -> None:
        """Checks every handover.

        Raises:
            BadCheckpoint: a row is malformed, out of order or not signed by both keys.
        """
        self._rows: Sequence[KeyRow] = list(rows)
        self._keys: list[NoteVerifier] = []
        for row in self._rows:
            try:
                key = NoteVerifier.from_vkey(row.vkey)
            except BadKey as error:
                raise BadCheckpoint(f"key {len(self._keys)} is malformed") from error
            if self._keys:
                self._follow(self._keys[-1], key, row)
            elif row.first != 0:
                raise BadCheckpoint("the first key is missing")
            self._keys.append(key)
        if not self._keys:
            raise BadCheckpoint("the log has no key")

    def _follow(self, old: NoteVerifier, new: NoteVerifier, row: KeyRow) -> None:
        expected = _text(old, new, row.first)
        if row.first <= self._rows[len(self._keys) - 1].first or new.name != old.name:
            raise BadCheckpoint(f"key {len(self._keys)} is out of order")
        if not old.verify(row.handover) == new.verify(row.handover) == expected:
            raise BadCheckpoint(f"the handover to key {len(self._keys)} says something else")

    @property
    def vkeys(self) -> Sequence[str]:
        """All of them as text, the newest last."""
        return [key.vkey for key in self._keys]

    @property
    def newest(self) -> NoteVerifier:
        """The key in force."""
        return self._keys[-1]

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._keys)

    def followed_by(self, row: KeyRow | None) -> "KeyRing":
        """These keys and one more, if there is one. Raises as the constructor."""
        return self if row is None else KeyRing([*self._rows, row])

    def __contains__(self, verifier: NoteVerifier) -> bool:
        """Whether a key is one of the log's."""
        return verifier in self._keys

    def open(self, number: int, note: str) -> Checkpoint:
        """A signed root, which must be signed by the key that was in force at its number.

        Raises:
            BadCheckpoint: it is not.
        """
        serving = [key for key, row in zip(self._keys, self._rows, strict=True) if row.first <= number]
        return serving[-1].open(note)

    def text_of(self, note: str) -> str:
        """The text of a note that one of the log's keys signed.

        Raises:
            BadCheckpoint: none did.
        """
        for key in reversed(self._keys):
            try:
                return key.verify(note)
            except BadCheckpoint:
                continue
        raise BadCheckpoint("not signed by a key of this log")

    def open_any(self, note: str) -> Checkpoint:
        """A signed root of whatever number, such as one that was published.

        Raises:
            BadCheckpoint: no key of this log signed it.
        """
        problem = BadCheckpoint("not signed by a key of this log")
        for key in reversed(self._keys):
            try:
                return key.open(note)
            except BadCheckpoint as error:
                problem = error
        raise problem


def ring(rows: Iterable[tuple[int, str, int, str]]) -> KeyRing:
    """The keys of a store, from its rows (number, vkey, first, handover) in order.

    Raises:
        BadCheckpoint: they do not follow from each other.
    """
    numbered = list(rows)
    if [row[0] for row in numbered] != list(range(len(numbered))):
        raise BadCheckpoint("a key of the log is missing")
    return KeyRing(KeyRow(*row[1:]) for row in numbered)


ALL_KEYS = "SELECT number, vkey, first, handover FROM keys ORDER BY number"
