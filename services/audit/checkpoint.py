"""Signed tree heads: C2SP tlog-checkpoint inside a C2SP signed note, Ed25519.

``<origin>\\n<size>\\n<base64 root>\\n\\n— <key name> <base64(key id || signature)>\\n``. Further signatures
(of witnesses) may follow ours; ours must be there and must be right.
"""

import base64
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ORIGIN_PREFIX = "kubegate.internal/audit/"
_ED25519 = b"\x01"
_DASH = "\u2014 "


class BadCheckpoint(ValueError):
    """The note is malformed, not signed by the log's key, or of another log."""


class BadKey(ValueError):
    """The key is not an Ed25519 key in the expected form."""


class OtherKey(BadCheckpoint):
    """The note is signed in the name of the log, by another key than the one at hand."""


def root_text(root: bytes) -> str:
    """A root as everybody is shown it, the same as in the files of checkpoints: base64."""
    return base64.b64encode(root).decode()


def origin_of(log_id: str) -> str:
    """The origin, which is also the key name, of a log."""
    return ORIGIN_PREFIX + log_id


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: the log, the number of its leaves, their root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text, newline included."""
        return f"{self.origin}\n{self.size}\n{root_text(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The tree head in a signed text.

        Raises:
            BadCheckpoint: it is not one in its only valid spelling.
        """
        lines = text.split("\n")
        try:
            checkpoint = cls(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True))
        except (IndexError, ValueError) as error:
            raise BadCheckpoint("not a checkpoint") from error
        if checkpoint.text() != text or len(checkpoint.root) != 32 or checkpoint.size < 0:
            raise BadCheckpoint("not a checkpoint in its canonical form")
        return checkpoint


@dataclass(frozen=True, slots=True)
class NoteVerifier:
    """Checks notes of one key. ``name`` is the key's name, the origin of the log."""

    name: str
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256(name || 0x0A || 0x01 || key)."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key in the text form of signed notes: ``name+hash+base64``."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.key).decode()}"

    @classmethod
    def from_vkey(cls, vkey: str) -> Self:
        """The verifier of a key in text form.

        Raises:
            BadKey: it is not one.
        """
        try:
            name, key_id, encoded = vkey.strip().split("+", 2)
            key = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise BadKey("not a verifier key of the form name+hash+key") from error
        verifier = cls(name, key[1:])
        if key[:1] != _ED25519 or len(key) != 33 or verifier.key_id.hex() != key_id:
            raise BadKey("not an Ed25519 verifier key")
        return verifier

    def verify(self, note: str) -> str:
        """The signed text of a note.

        Raises:
            BadCheckpoint: no signature of this key, or a wrong one.
        """
        text, blank, signatures = note.rpartition("\n\n")
        text, other = text + "\n", False
        if not blank or not signatures.endswith("\n"):
            raise BadCheckpoint("not a signed note")
        for line in signatures[:-1].split("\n"):
            name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
            if not line.startswith(_DASH) or not name:
                raise BadCheckpoint("not a signed note")
            try:
                blob = base64.b64decode(encoded, validate=True)
            except ValueError as error:
                raise BadCheckpoint("not a signed note") from error
            # base64 decoders ignore the unused bits of the last character; another spelling is another note.
            if name != self.name or base64.b64encode(blob).decode() != encoded:
                continue
            if blob[:4] != self.key_id:
                other = True
                continue
            try:
                Ed25519PublicKey.from_public_bytes(self.key).verify(blob[4:], text.encode())
            except InvalidSignature as error:
                raise BadCheckpoint("the signature is wrong") from error
            return text
        raise (
            OtherKey(f"signed by another key of {self.name}") if other else BadCheckpoint(f"not signed by {self.name}")
        )

    def open(self, note: str) -> Checkpoint:
        """The tree head of this log in a signed note.

        Raises:
            BadCheckpoint: the note is not that.
        """
        checkpoint = Checkpoint.parse(self.verify(note))
        if checkpoint.origin != self.name:
            raise BadCheckpoint(f"a checkpoint of {checkpoint.origin}, not of {self.name}")
        return checkpoint


class NoteSigner:
    """Signs checkpoints of one log."""

    def __init__(self, origin: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = NoteVerifier(origin, key.public_key().public_bytes_raw())

    @classmethod
    def from_pem(cls, origin: str, pem: bytes) -> Self:
        """The signer with an unencrypted PKCS #8 Ed25519 key.

        Raises:
            BadKey: the PEM holds none.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise BadKey("not an unencrypted private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKey("not an Ed25519 key")
        return cls(origin, key)

    def sign(self, size: int, root: bytes) -> str:
        """The signed note for a tree head."""
        text = Checkpoint(self.verifier.name, size, root).text()
        return f"{text}\n{self.signature(text)}"

    def signature(self, text: str) -> str:
        """The signature line of a note, its newline included."""
        signature = base64.b64encode(self.verifier.key_id + self._key.sign(text.encode())).decode()
        return f"{_DASH}{self.verifier.name} {signature}\n"
