"""What can be proven over gRPC and from files: exports, inclusion, receipts, published heads, witnesses, rotation."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubegate.audit.v1 import audit_pb2
from services.audit.checkpoint import BadCheckpoint, NoteSigner, origin_of
from services.audit.merkle import check_consistency, check_inclusion, leaf_hash
from services.audit.receipt import BadReceipt, check
from services.audit.verify import Altered, verify_export, verify_store
from services.audit.witness import Cosigner
from services.common.errors import (
    InvalidArgument,
    NotFound,
)
from services.common.runtime_errors import StartupError
from tests.contract.audit_asking import LINES, VERIFIER, export, fill, filter_, mesh, rig
from tests.fakes.audit_rig import SIGNING_KEY, Rig, event

__all__ = ["mesh", "rig"]


@pytest.mark.req("I4.3", "I4.4")
async def test_an_export_of_some_events_proves_each_of_them_and_names_what_is_wrong(rig: Rig) -> None:
    await fill(rig)
    data, proof, events = await export(rig, filter=filter_(user="user-1"), format=LINES, proofs=True)
    lines = data.splitlines(keepends=True)
    assert events == len(lines) == 2
    assert verify_export(lines, proof, VERIFIER).events == 2
    altered = lines[1].replace(b"user-1", b"user-7")
    for wrong, what in (
        ([lines[0], altered], "event 4"),
        (lines[:1], "event 4 is missing"),
        (lines[::-1], "event 1"),
        ([*lines, lines[1]], "line 3 has no proof"),
        ([lines[0][:-1]], "cut off"),
    ):
        with pytest.raises(Altered, match=what):
            verify_export(wrong, proof, VERIFIER)
    head = json.loads(proof)
    origin, size, root, rest = head["checkpoint"].split("\n", 3)
    head["checkpoint"] = "\n".join((origin, size, base64.b64encode(bytes(len(base64.b64decode(root)))).decode(), rest))
    with pytest.raises(Altered, match="signed root"):
        verify_export(lines, json.dumps(head), VERIFIER)
    _, nothing, events = await export(rig, filter=filter_(user="nobody"), format=LINES, proofs=True)
    assert events == 0
    assert verify_export([], nothing, VERIFIER).events == 0


@pytest.mark.req("I4.3")
async def test_inclusion_and_consistency_are_proven(rig: Rig) -> None:
    await fill(rig)
    old = VERIFIER.open((await rig.call("GetCheckpoint", audit_pb2.GetCheckpointRequest())).checkpoint)
    answer = await rig.call("GetInclusionProof", audit_pb2.GetInclusionProofRequest(sequence=3))
    head = VERIFIER.open(answer.checkpoint)
    check_inclusion(leaf_hash(answer.record.canonical_json), 3, head.size, list(answer.hashes), head.root)
    proof = await rig.call("GetConsistencyProof", audit_pb2.GetConsistencyProofRequest(old_size=old.size), "")
    new = VERIFIER.open(proof.checkpoint)
    assert new.size > old.size
    check_consistency(old.size, old.root, new.size, new.root, list(proof.hashes))
    with pytest.raises(NotFound):
        await rig.call("GetInclusionProof", audit_pb2.GetInclusionProofRequest(sequence=10_000))
    with pytest.raises(InvalidArgument):
        await rig.call("GetConsistencyProof", audit_pb2.GetConsistencyProofRequest(old_size=10_000))


@pytest.mark.req("I4.3")
async def test_a_receipt_proves_one_event_offline_and_writers_get_those_of_their_own(rig: Rig) -> None:
    ids = await fill(rig)
    mine = audit_pb2.GetReceiptRequest(event_id=ids[2])
    text = (await rig.call("GetReceipt", mine, "", "service/mcp-core")).tlog_proof
    proven = check(text, VERIFIER)
    assert json.loads(proven.event)["event_id"] == ids[2]
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")
    any_ = audit_pb2.GetReceiptRequest(event_id=ids[2], writer="service/mcp-core")
    assert check((await rig.call("GetReceipt", any_, "auditor")).tlog_proof, VERIFIER).event == proven.event
    for request, as_ in ((any_, "platform/billing"), (mine, "platform/billing"), (mine, "service/authn")):
        with pytest.raises(NotFound):
            await rig.call("GetReceipt", request, "", as_)
    for wrong in (
        text.replace("index 2", "index 3"),
        text.replace("index 2", "index 02"),
        text.replace("extra ", "extra A", 1),
        text.replace("\n\n", "\nAAAA\n\n", 1),
        text.rpartition("\n\n")[0],
        "",
    ):
        with pytest.raises(BadReceipt):
            check(wrong, VERIFIER)


@pytest.mark.req("I4.3", "R23")
async def test_the_tree_head_is_published_and_a_store_behind_it_is_refused(rig: Rig) -> None:
    await fill(rig)
    await rig.stop()
    path = rig.directory / "checkpoint"
    head = VERIFIER.open(path.read_text())
    assert head.size == 6
    store = rig.directory / "audit.db"
    whole = store.read_bytes()
    (rig.directory / "audit.log").rename(rig.directory / "audit.log.kept")
    for file in rig.directory.glob("audit.db*"):
        file.unlink()
    with pytest.raises(StartupError, match="missing or empty"):
        await rig.start()
    path.rename(rig.directory / "kept")
    await rig.start()
    await rig.append("service/mcp-core", event())
    await rig.stop()
    (rig.directory / "kept").replace(path)
    with pytest.raises(StartupError, match=r"holds 1 events, but .*checkpoint is a signed checkpoint over 6"):
        await rig.start()
    with pytest.raises(Altered, match="event 1 is missing"):
        verify_store(store, VERIFIER, None, {"the published checkpoint": path.read_text()})
    for _ in range(6):
        # As long as the log that was published, but another one.
        path.unlink(missing_ok=True)
        await rig.start()
        await rig.append("service/mcp-core", event())
        await rig.stop()
    path.write_text(NoteSigner(origin_of("main"), SIGNING_KEY).sign(6, head.root))
    with pytest.raises(StartupError, match="another history"):
        await rig.start()
    store.write_bytes(whole)
    (rig.directory / "audit.log.kept").replace(rig.directory / "audit.log")
    await rig.start()


@pytest.mark.req("I4.3", "R23")
async def test_a_witness_follows_the_log_and_start_is_refused_behind_it(rig: Rig, tmp_path: Path) -> None:
    cosigner = Cosigner("witness.example/w1", Ed25519PrivateKey.generate())

    async def witnessed(last: str) -> str:
        size = VERIFIER.open(last).size if last else 0
        answer = await rig.call("GetConsistencyProof", audit_pb2.GetConsistencyProofRequest(old_size=size), "")
        return cosigner.cosign(VERIFIER, answer.checkpoint, last, list(answer.hashes), 1_800_000_000)

    await fill(rig)
    first = await witnessed("")
    await rig.append("service/mcp-core", event())
    second = await witnessed(first)
    assert cosigner.verifier.open(second).time == 1_800_000_000
    assert VERIFIER.open(second).size > VERIFIER.open(first).size
    # What does not extend what it saw is never cosigned.
    other = NoteSigner(origin_of("main"), SIGNING_KEY).sign(9, b"\x01" * 32)
    with pytest.raises(BadCheckpoint, match="does not extend"):
        cosigner.cosign(VERIFIER, other, second, [], 0)
    with pytest.raises(BadCheckpoint):
        cosigner.cosign(VERIFIER, second, other, [], 0)
    await rig.stop()
    seen = tmp_path / "witness"
    seen.write_text(second)
    rig.witnesses = [{"file": seen, "key": cosigner.verifier.vkey}]
    await rig.start()
    await rig.stop()
    # The service's own files are cut back; the witness's are out of its reach.
    for file in rig.directory.glob("audit.*"):
        file.unlink()
    (rig.directory / "checkpoint").unlink()
    with pytest.raises(StartupError, match="is a signed checkpoint over 7"):
        await rig.start()
    seen.write_text(first.rpartition("\u2014 witness")[0])
    with pytest.raises(StartupError, match="not cosigned by witness"):
        await rig.start()


@pytest.mark.req("I4.3")
async def test_the_logs_key_is_rotated_by_a_handover_that_both_keys_sign(rig: Rig) -> None:
    await fill(rig)
    await rig.stop()
    kept = {"kept": (rig.directory / "checkpoint").read_text()}
    old = rig.directory / "old.key"
    (rig.directory / "signing.key").rename(old)
    new = Ed25519PrivateKey.generate()
    rig.signing_key = new
    with pytest.raises(StartupError, match="previous_signing_key_file"):
        await rig.start()
    rig.previous = old
    await rig.start()
    await rig.append("service/mcp-core", event())
    await rig.stop()
    rig.previous = None
    await rig.start()
    store = rig.directory / "audit.db"
    verifier = NoteSigner(origin_of("main"), new).verifier
    for key in (verifier, VERIFIER):
        assert verify_store(store, key, rig.directory / "audit.log", kept).events == 7
    with pytest.raises(Altered, match="does not belong"):
        verify_store(store, NoteSigner(origin_of("main"), Ed25519PrivateKey.generate()).verifier)
    assert verifier.open((await rig.call("GetCheckpoint", audit_pb2.GetCheckpointRequest())).checkpoint).size == 7
    await rig.stop()
    # The retired key signs nothing more.
    (rig.directory / "signing.key").unlink()
    old.rename(rig.directory / "signing.key")
    with pytest.raises(StartupError, match="belongs to the log"):
        await rig.start()
