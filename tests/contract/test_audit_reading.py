"""What an auditor can ask over gRPC: filters, text, pages, statistics, exports, proofs; and what nobody else can."""

import base64
import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubegate.audit.v1 import audit_pb2
from kubegate.common.v1 import identity_pb2
from services.audit.checkpoint import BadCheckpoint, NoteSigner, origin_of
from services.audit.merkle import check_consistency, check_inclusion, leaf_hash
from services.audit.receipt import BadReceipt, check
from services.audit.verify import Altered, verify_export, verify_store
from services.audit.witness import Cosigner
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from services.common.ids import uuid7
from services.common.runtime_errors import StartupError
from tests.fakes.audit_rig import SIGNING_KEY, Rig, event, token
from tests.fakes.mesh import Mesh

VERIFIER = NoteSigner(origin_of("main"), SIGNING_KEY).verifier
LINES = audit_pb2.EXPORT_FORMAT_JSON_LINES
CSV = audit_pb2.EXPORT_FORMAT_CSV


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest_asyncio.fixture
async def rig(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(mesh, tmp_path)
    await rig.serve_surroundings()
    await rig.start()
    yield rig
    await rig.stop()
    await rig.stop_surroundings()


async def fill(rig: Rig) -> list[str]:
    """Six events that differ in every field; their ids."""
    decision = audit_pb2.Decision(allowed=True, rule="role:admin#1", policy_revision="r7", permission="k8s:pods:list")
    sources = [identity_pb2.Source(address=f"192.0.2.{n}", user_agent="curl") for n in range(6)]
    ids = []
    for n in range(6):
        message = event(
            action="list_pods" if n % 2 else "scale_deployment",
            user=f"user-{n % 3}",
            resource=f"pods/p{n}",
            metadata={"tool": f"tool-{n}", "note": 'said "Hallo" 100%_ \\ ' if n == 2 else "-"},
            error_message="Timed OUT" if n == 4 else "",
            duration_ms=n * 1.5,
            source=sources[n],
            trace_id=f"{n:032x}",
        )
        if n == 5:
            message.decision.CopyFrom(decision)
        await rig.append("service/mcp-core", message)
        ids.append(message.event_id)
    return ids


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"fields": [("metadata.tool", ["tool-1", "tool-3"])]}, [1, 3]),
    ({"fields": [("source.address", ["192.0.2.4"])]}, [4]),
    ({"fields": [("decision.rule", ["role:admin#1"])]}, [5]),
    ({"fields": [("decision.allowed", ["true"])]}, [5]),
    ({"fields": [("decision.rule", [""])]}, [0, 1, 2, 3, 4]),
    ({"fields": [("duration_ms", ["4.5"])]}, [3]),
    ({"fields": [("trace_id", [f"{2:032x}"])]}, [2]),
    ({"fields": [("writer", ["service/mcp-core"]), ("user", ["user-1"])]}, [1, 4]),
    ({"fields": [("sequence", ["0"])]}, [0]),
    ({"text": "hallo"}, [2]),
    ({"text": '"Hallo" 100%_ \\'}, [2]),
    ({"text": "timed out"}, [4]),
    ({"text": "%"}, [2]),
    ({"text": "role:admin"}, []),
    ({"min_duration_ms": 3.0, "max_duration_ms": 6.0}, [2, 3, 4]),
    ({"user": "user-0", "fields": [("action", ["list_pods"])]}, [3]),
]


def filter_(**parts: Any) -> audit_pb2.Filter:
    fields = [audit_pb2.FieldFilter(path=path, values=values) for path, values in parts.pop("fields", ())]
    return audit_pb2.Filter(fields=fields, **parts)


@pytest.mark.req("I4.4")
async def test_every_field_can_be_filtered_by_and_metadata_searched(rig: Rig) -> None:
    await fill(rig)
    for parts, expected in FILTERS:
        chosen = filter_(**parts)
        found = await rig.query(filter=chosen)
        assert [each["sequence"] for each in found if each["writer"] == "service/mcp-core"] == expected, parts
    moment = (await rig.query(limit=1))[0]["timestamp"]
    later = audit_pb2.Filter(user="user-1")
    later.since.FromDatetime(datetime.fromisoformat(moment) + timedelta(hours=1))
    assert await rig.query(filter=later) == []


@pytest.mark.req("I4.4")
@pytest.mark.parametrize(
    "chosen",
    [
        filter_(fields=[("nonsense", ["x"])]),
        filter_(fields=[("metadata.", ["x"])]),
        filter_(fields=[('metadata.a") OR 1=1 --', ["x"])]),
        filter_(fields=[("user", [])]),
        filter_(fields=[("user", ["x"] * 65)]),
        filter_(fields=[("user", ["x"])] * 33),
    ],
)
async def test_a_field_that_no_event_has_is_refused_in_words(rig: Rig, chosen: audit_pb2.Filter) -> None:
    with pytest.raises(InvalidArgument):
        await rig.query(filter=chosen)


@pytest.mark.req("I4.4")
async def test_counts_by_fields_and_time_for_plots(rig: Rig) -> None:
    await fill(rig)
    only = filter_(fields=[("writer", ["service/mcp-core"])])
    by = [audit_pb2.STATS_FIELD_USER, audit_pb2.STATS_FIELD_ACTION]
    counts = await rig.call("Stats", audit_pb2.StatsRequest(filter=only, by=by))
    assert sorted((*row.values, row.count) for row in counts.rows) == [
        ("user-0", "list_pods", 1), ("user-0", "scale_deployment", 1), ("user-1", "list_pods", 1),
        ("user-1", "scale_deployment", 1), ("user-2", "list_pods", 1), ("user-2", "scale_deployment", 1),
    ]  # fmt: skip
    whole = await rig.call("Stats", audit_pb2.StatsRequest(filter=only, bucket_seconds=86_400))
    assert sum(row.count for row in whole.rows) == 6
    assert all(row.bucket.seconds % 86_400 == 0 for row in whole.rows)
    nothing = await rig.call("Stats", audit_pb2.StatsRequest(filter=filter_(user="nobody")))
    assert list(nothing.rows) == []
    for bad in ([0], [99], [1, 1]):
        with pytest.raises(InvalidArgument):
            await rig.call("Stats", audit_pb2.StatsRequest(by=bad))  # type: ignore[arg-type]


async def export(rig: Rig, **request: Any) -> tuple[bytes, str, int]:
    parts = await rig.parts("Export", audit_pb2.ExportRequest(**request))
    events = parts[-1].events if parts else 0
    return b"".join(part.data for part in parts), b"".join(part.proof for part in parts).decode(), events


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


@pytest.mark.req("I4.4")
async def test_a_csv_opens_in_a_spreadsheet_and_runs_nothing_there(rig: Rig) -> None:
    await fill(rig)
    await rig.append("service/mcp-core", event(user='=HYPERLINK("http://evil")', action="+1", resource='a,"b"\nc'))
    data, _, events = await export(rig, format=CSV, filter=filter_(fields=[("writer", ["service/mcp-core"])]))
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert len(rows) == events == 7
    assert rows[6]["user"] == '\'=HYPERLINK("http://evil")'
    assert rows[6]["action"] == "'+1"
    assert rows[6]["resource"] == 'a,"b"\nc'
    assert json.loads(rows[2]["metadata"])["tool"] == "tool-2"
    with pytest.raises(InvalidArgument, match="CSV"):
        await export(rig, format=CSV, proofs=True)
    with pytest.raises(InvalidArgument):
        await export(rig)


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


READS: dict[str, Any] = {
    "Stats": audit_pb2.StatsRequest(),
    "GetInclusionProof": audit_pb2.GetInclusionProofRequest(),
    "GetReceipt": audit_pb2.GetReceiptRequest(event_id="x", writer="service/mcp-core"),
}
STREAMS: dict[str, Any] = {
    "Query": audit_pb2.QueryRequest(),
    "Export": audit_pb2.ExportRequest(format=LINES),
}


@pytest.mark.req("I4.4", "R15")
async def test_an_auditor_reads_and_does_nothing_else_and_every_reading_is_on_record(rig: Rig) -> None:
    await fill(rig)
    for method, request in STREAMS.items():
        assert await rig.parts(method, request, "auditor")
    for method in ("Stats", "GetInclusionProof"):
        await rig.call(method, READS[method], "auditor")
    attest = audit_pb2.LogComplianceEventRequest(
        event_id=uuid7(), framework="SOC2", control="CC6.3", action="access-review", result=audit_pb2.RESULT_SUCCESS
    )
    with pytest.raises(PermissionDenied):
        await rig.call("LogComplianceEvent", attest, "auditor")
    with pytest.raises(PermissionDenied):
        await rig.append("operator/alice", event())
    recorded = [
        (each["action"], each["user"], each["result"]) for each in await rig.query() if each["event_type"] == "admin"
    ]
    actions = ["audit.Query", "audit.Export", "audit.Stats", "audit.GetInclusionProof"]
    assert recorded == [*((action, "auditor", "success") for action in actions),
                        ("audit.LogComplianceEvent", "auditor", "failure")]  # fmt: skip


@pytest.mark.req("I4.4", "R15")
@pytest.mark.parametrize(("subject", "error"), [("viewer", PermissionDenied), ("", Unauthenticated)])
async def test_nobody_else_reads(rig: Rig, subject: str, error: type[Exception]) -> None:
    await fill(rig)
    for method, request in READS.items():
        with pytest.raises(error):
            await rig.call(method, request, subject)
        with pytest.raises(PermissionDenied if method != "GetReceipt" else NotFound):
            await rig.call(method, request, subject, "platform/billing")
    for method, request in STREAMS.items():
        with pytest.raises(error):
            await rig.parts(method, request, subject)
    refused = [each for each in await rig.query() if each["event_type"] == "admin"]
    assert [each["result"] for each in refused] == ["failure"] * 5


@pytest.mark.req("I4.5")
async def test_a_compliance_event_is_a_persons_stored_once_and_never_overwritten(rig: Rig) -> None:
    request = audit_pb2.LogComplianceEventRequest(
        event_id=uuid7(),
        framework="SOC2",
        control="CC6.3",
        action="access-review",
        resource="role:admin",
        result=audit_pb2.RESULT_SUCCESS,
        details={"ticket": "SEC-7", "operator": "forged"},
    )
    first = await rig.call("LogComplianceEvent", request)
    stored = await rig.record(first.sequence)
    assert (stored["event_type"], stored["user"], stored["user_source"]) == ("compliance", "admin", "verified")
    assert stored["metadata"] == {
        "ticket": "SEC-7", "operator": "operator/alice", "framework": "SOC2", "control": "CC6.3",
    }  # fmt: skip
    assert (await rig.call("LogComplianceEvent", request)).sequence == first.sequence
    request.action = "another"
    with pytest.raises(AlreadyExists):
        await rig.call("LogComplianceEvent", request)
    with pytest.raises(InvalidArgument, match="control"):
        await rig.call("LogComplianceEvent", audit_pb2.LogComplianceEventRequest(
            framework="SOC2", action="x", result=audit_pb2.RESULT_SUCCESS))  # fmt: skip


@pytest.mark.req("I4.1")
async def test_values_named_secret_are_masked_and_can_still_be_compared(rig: Rig) -> None:
    one = await rig.append("service/mcp-core", event(metadata={"db_password": "hunter2", "api-key": "k", "tool": "t"}))
    two = await rig.append("service/mcp-core", event(metadata={"dbPassword": "hunter2", "accessToken": "hunter3"}))
    first, second = [await rig.record(n) for n in (one, two)]
    assert first["metadata"]["db_password"] == second["metadata"]["dbPassword"]
    assert first["metadata"]["db_password"].startswith("hmac-sha256:")
    assert second["metadata"]["accessToken"] != second["metadata"]["dbPassword"]
    assert first["metadata"]["tool"] == "t"
    for file in rig.directory.iterdir():
        assert b"hunter" not in file.read_bytes(), file


@pytest.mark.req("I4.1")
async def test_what_a_newer_writer_says_is_kept(rig: Rig) -> None:
    """Field 110 is of a contract to come, at the top and in a part of the event."""
    newer = b"\xf2\x06\x05later"
    message = event(decision=audit_pb2.Decision(rule="r"))
    raw = message.SerializeToString() + newer
    sent = audit_pb2.Event.FromString(raw)
    sent.decision.MergeFromString(newer)
    stored = await rig.record(await rig.append("service/mcp-core", sent))
    kept = audit_pb2.Event.FromString(base64.b64decode(stored["unknown_fields"]))
    assert kept.SerializeToString().count(b"later") == 2
    assert kept.ListFields()[0][0].name == "decision"
    assert stored["decision"]["rule"] == "r"
    assert "unknown_fields" not in await rig.record(await rig.append("service/mcp-core", event()))


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


@pytest.mark.req("R13", "I4.4")
async def test_a_reader_of_one_tenant_sees_its_own_events_and_no_proof_of_the_whole_log(rig: Rig) -> None:
    await fill(rig)
    await rig.append("service/mcp-core", event(), token("carol", "service/mcp-core", tenant="blue"))
    rig.tenant = "blue"
    found = await rig.query()
    assert {each["tenant"] for each in found} == {"blue"}
    assert await rig.query(filter=filter_(fields=[("tenant", [""])])) == []
    with pytest.raises(PermissionDenied):
        await rig.call("GetInclusionProof", audit_pb2.GetInclusionProofRequest(sequence=0))
    with pytest.raises(PermissionDenied):
        await rig.parts("Export", audit_pb2.ExportRequest(format=LINES, proofs=True))
    counts = await rig.call("Stats", audit_pb2.StatsRequest(by=[audit_pb2.STATS_FIELD_USER]))
    assert {row.values[0] for row in counts.rows} == {"carol", "admin"}
    parts = await rig.parts("Export", audit_pb2.ExportRequest(format=LINES))
    lines = b"".join(part.data for part in parts).splitlines()
    assert {json.loads(line)["tenant"] for line in lines} == {"blue"}
    metadata = ((PRINCIPAL_TOKEN_METADATA, token("admin", "operator/alice", tenant="blue")),)
    tail = rig.stub("operator/alice").Tail(audit_pb2.TailRequest(from_sequence=0), timeout=10, metadata=metadata)
    records = (await tail.read()).records
    assert records
    assert {json.loads(record.canonical_json)["tenant"] for record in records} == {"blue"}
    tail.cancel()
    # What speaks of everybody's events is refused, and the refusals are on record as such.
    for method, request in (
        ("GetReceipt", audit_pb2.GetReceiptRequest(writer="service/mcp-core", event_id=uuid7())),
        ("GetRetention", audit_pb2.GetRetentionRequest()),
        ("PlaceHold", audit_pb2.PlaceHoldRequest(reason="x")),
        ("ReleaseHold", audit_pb2.ReleaseHoldRequest(id="x", reason="x")),
        ("Retire", audit_pb2.RetireRequest()),
    ):
        with pytest.raises(PermissionDenied, match="one tenant"):
            await rig.call(method, request)
    with pytest.raises(PermissionDenied):
        await rig.parts("GetRetiredLeaves", audit_pb2.GetRetiredLeavesRequest())
    refused = await rig.query(filter=filter_(result=audit_pb2.RESULT_FAILURE))
    assert [each["action"].removeprefix("audit.") for each in refused] == [
        "GetInclusionProof", "Export", "GetReceipt", "GetRetention", "PlaceHold", "ReleaseHold", "Retire",
        "GetRetiredLeaves",
    ]  # fmt: skip
