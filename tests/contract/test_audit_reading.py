"""What an auditor can ask over gRPC: filters, text, statistics, CSV; and what nobody else can."""

import csv
import io
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from services.common.ids import uuid7
from tests.contract.audit_asking import CSV, LINES, export, fill, filter_, mesh, rig
from tests.fakes.audit_rig import Rig, event, token

__all__ = ["mesh", "rig"]


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
