"""Signed tree heads: C2SP signed notes and tlog-checkpoints."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.audit.checkpoint import BadCheckpoint, BadKey, Checkpoint, NoteSigner, NoteVerifier
from services.audit.merkle import EMPTY_ROOT
from tests.unit.audit.support import KEY, signer

# The example of golang.org/x/mod/sumdb/note.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


@pytest.mark.req("R23")
def test_the_published_example_of_a_signed_note_is_valid() -> None:
    verifier = NoteVerifier.from_vkey(VKEY)
    assert verifier.vkey == VKEY
    assert verifier.verify(NOTE).startswith("If you think")
    with pytest.raises(BadCheckpoint):
        verifier.verify(NOTE.replace("problem,", "problem;"))


def test_what_is_signed_opens_and_a_witness_may_sign_below() -> None:
    note = signer().sign(7, b"r" * 32)
    assert note.startswith("kubegate.internal/audit/test\n7\n")
    expected = Checkpoint("kubegate.internal/audit/test", 7, b"r" * 32)
    assert signer().verifier.open(note) == expected
    assert signer().verifier.open(note + "— witness AAAAAAAA\n") == expected


@pytest.mark.req("R23")
def test_every_changed_byte_of_a_note_is_found() -> None:
    note = signer().sign(3, EMPTY_ROOT).encode()
    for position in range(len(note)):
        for bit in (1, 4, 32):
            changed = bytearray(note)
            changed[position] ^= bit
            with pytest.raises(BadCheckpoint):
                signer().verifier.open(changed.decode("utf-8", "replace"))


def test_a_note_of_another_log_or_key_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="not signed by"):
        signer().verifier.open(signer("other").sign(0, EMPTY_ROOT))
    with pytest.raises(BadCheckpoint):
        signer().verifier.open(NOTE)


@pytest.mark.parametrize(
    "text", ["", "a\n1\n", "a\n01\n" + "A" * 43 + "=\n", "a\n-1\n" + "A" * 43 + "=\n", "a\n1\nAA==\n"]
)
def test_only_the_canonical_spelling_is_a_tree_head(text: str) -> None:
    with pytest.raises(BadCheckpoint):
        Checkpoint.parse(text)


@pytest.mark.parametrize("vkey", ["", "a+b", "a+00000000+AQID", VKEY.replace("c74f", "c74e")])
def test_a_malformed_public_key_is_refused(vkey: str) -> None:
    with pytest.raises(BadKey):
        NoteVerifier.from_vkey(vkey)


def test_keys_come_from_pem_and_are_ed25519() -> None:
    none, pkcs8, pem = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    assert NoteSigner.from_pem("o", KEY.private_bytes(pem, pkcs8, none)).verifier.name == "o"
    for bad in (b"nonsense", ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, none)):
        with pytest.raises(BadKey):
            NoteSigner.from_pem("o", bad)
