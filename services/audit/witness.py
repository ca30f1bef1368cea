"""Witnesses: whoever keeps the newest checkpoint of a log somewhere else, having checked that it extends the last.

C2SP tlog-cosignature, Ed25519: a signature line with key type 0x04 over ``cosignature/v1\\ntime <seconds>\\n`` and
the checkpoint's text. Against a holder of the log's signing key only history before the last cosignature is
protected, and only while the witness has a key and a volume of its own (R23).
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.audit.checkpoint import BadCheckpoint, BadKey, Checkpoint, NoteVerifier
from services.audit.merkle import EMPTY_ROOT, BadProof, check_consistency

_COSIGNATURE = b"\x04"
_DASH = "\u2014 "


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that a witness has seen, and when, in seconds since 1970."""

    checkpoint: Checkpoint
    time: int


@dataclass(frozen=True, slots=True)
class WitnessVerifier:
    """Checks cosignatures of one witness."""

    name: str
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name || 0x0A || 0x04 || key)."""
        return sha256(self.name.encode() + b"\n" + _COSIGNATURE + self.key).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key in text form: ``name+hash+base64``."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_COSIGNATURE + self.key).decode()}"

    @classmethod
    def from_vkey(cls, vkey: str) -> Self:
        """The verifier of a key in text form.

        Raises:
            BadKey: it is not the key of a witness.
        """
        try:
            name, key_id, encoded = vkey.strip().split("+", 2)
            key = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise BadKey("not a verifier key of the form name+hash+key") from error
        verifier = cls(name, key[1:])
        if key[:1] != _COSIGNATURE or len(key) != 33 or verifier.key_id.hex() != key_id:
            raise BadKey("not the Ed25519 key of a witness")
        return verifier

    def open(self, note: str) -> Cosigned:
        """What the witness has seen. Whether the log signed it is for the log's key to judge.

        Raises:
            BadCheckpoint: this witness did not cosign the note.
        """
        text, blank, signatures = note.rpartition("\n\n")
        text += "\n"
        for line in signatures.split("\n") if blank else ():
            name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
            try:
                blob = base64.b64decode(encoded, validate=True)
            except ValueError:
                continue
            if name != self.name or blob[:4] != self.key_id or len(blob) != 4 + 8 + 64:
                continue
            (time,) = struct.unpack(">Q", blob[4:12])
            try:
                Ed25519PublicKey.from_public_bytes(self.key).verify(blob[12:], _message(text, time))
            except InvalidSignature as error:
                raise BadCheckpoint(f"the cosignature of {self.name} is wrong") from error
            return Cosigned(Checkpoint.parse(text), time)
        raise BadCheckpoint(f"not cosigned by {self.name}")


class Cosigner:
    """A witness: cosigns what extends the last checkpoint that it cosigned."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = WitnessVerifier(name, key.public_key().public_bytes_raw())

    def cosign(self, log: NoteVerifier, note: str, last: str, proof: Sequence[bytes], now: int) -> str:
        """The note with this witness's cosignature. ``last``: what it cosigned before, or nothing; ``proof``: how
        the note's tree extends that one.

        Raises:
            BadCheckpoint: the log did not sign it, it does not extend the last one, or that one is not ours.
        """
        checkpoint = log.open(note)
        known = self.verifier.open(last).checkpoint if last else Checkpoint(log.name, 0, EMPTY_ROOT)
        if known.origin != checkpoint.origin:
            raise BadCheckpoint(f"the last checkpoint seen is of another log, {known.origin}")
        try:
            check_consistency(known.size, known.root, checkpoint.size, checkpoint.root, proof)
        except BadProof as error:
            raise BadCheckpoint(
                f"the log of {checkpoint.size} events does not extend the {known.size} seen before: {error}"
            ) from error
        text = checkpoint.text()
        blob = self.verifier.key_id + struct.pack(">Q", now) + self._key.sign(_message(text, now))
        signed = "".join(line + "\n" for line in _lines_of(note, log))
        return f"{text}\n{signed}{_DASH}{self.verifier.name} {base64.b64encode(blob).decode()}\n"


def _lines_of(note: str, log: NoteVerifier) -> list[str]:
    """The log's own signature lines; cosignatures of others are theirs to keep."""
    return [line for line in note.rpartition("\n\n")[2].split("\n") if line.startswith(f"{_DASH}{log.name} ")]


def _message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
