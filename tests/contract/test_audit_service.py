"""The audit service over real mTLS gRPC, wired as in production, with authn and authz played by the test."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from grpc_health.v1 import health_pb2

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.common.v1 import stream_pb2
from services.audit.checkpoint import NoteSigner, origin_of
from services.audit.verify import verify_store
from services.audit.wiring import main
from services.common.audit_client import AuditClient
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.config import PeerAddress
from services.common.deadline import Deadline
from services.common.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc_client import Peer
from services.common.ids import uuid7
from services.common.runtime_errors import StartupError
from services.common.tls import server_name
from tests.fakes.audit_rig import SIGNING_KEY, TYPE, Rig, event, token
from tests.fakes.mesh import Mesh


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


WRITES = {
    "service/authn": {"AUTHENTICATION", "SECURITY_VIOLATION", "COMPLIANCE", "ADMIN"},
    "service/authz": {"AUTHORIZATION", "SECURITY_VIOLATION", "COMPLIANCE", "ADMIN"},
    "service/mcp-core": {"AUTHENTICATION", "MCP_REQUEST", "SECURITY_VIOLATION"},
    "platform/billing": {"EXTERNAL"},
}


@pytest.mark.req("R22", "I2.7")
@pytest.mark.parametrize("writer", WRITES)
async def test_each_writer_appends_its_own_types_and_no_other(rig: Rig, writer: str) -> None:
    kinds = [name.removeprefix("EVENT_TYPE_") for name in TYPE.keys()[1:]]
    for kind in kinds:
        message = event(event_type=TYPE.Value(f"EVENT_TYPE_{kind}"), result=audit_pb2.RESULT_FAILURE)
        if kind in WRITES[writer]:
            stored = await rig.record(await rig.append(writer, message))
            assert (stored["writer"], stored["event_type"]) == (writer, kind.lower())
            assert stored["user_source"] == "asserted"
        else:
            with pytest.raises(PermissionDenied):
                await rig.append(writer, message)


@pytest.mark.req("R22", "R5")
async def test_a_principal_token_decides_the_user_and_belongs_to_its_peer(rig: Rig) -> None:
    stored = await rig.record(await rig.append("service/mcp-core", event(), token("alice", "service/mcp-core")))
    assert (stored["user"], stored["user_source"]) == ("alice", "verified")
    assert stored["principal"]["credential_id"] == "c1"
    for bad in (token("alice", "service/authz"), token("alice", "service/mcp-core", ago=61), "nonsense"):
        with pytest.raises(Unauthenticated):
            await rig.append("service/mcp-core", event(), bad)
    decided = event(event_type=TYPE.EVENT_TYPE_AUTHORIZATION)
    stored = await rig.record(await rig.append("service/authz", decided, token("alice", "service/mcp-core")))
    assert stored["user_source"] == "verified"


@pytest.mark.req("R5", "R21")
async def test_an_outcome_is_taken_after_the_tokens_end_and_belongs_to_the_intents_user(rig: Rig) -> None:
    deadline = Timestamp()
    deadline.FromDatetime(datetime.now(UTC) + timedelta(seconds=10))
    unknown = audit_pb2.RESULT_UNKNOWN
    intent = event(phase=audit_pb2.PHASE_INTENT, result=unknown, deadline=deadline, action="scale_deployment")
    await rig.append("service/mcp-core", intent, token("alice", "service/mcp-core"))
    late = token("alice", "service/mcp-core", ago=3600)
    outcome = event(phase=audit_pb2.PHASE_OUTCOME, intent_id=intent.event_id, action="scale_deployment")
    stored = await rig.record(await rig.append("service/mcp-core", outcome, late))
    assert (stored["user"], stored["user_source"], stored["intent_id"]) == ("alice", "verified", intent.event_id)
    orphaned = event(phase=audit_pb2.PHASE_OUTCOME, intent_id=uuid7())
    with pytest.raises(FailedPrecondition):
        await rig.append("service/mcp-core", orphaned)


@pytest.mark.req("I2.5", "R23")
async def test_the_same_event_is_stored_once_and_a_different_one_under_its_id_is_an_error(rig: Rig) -> None:
    message = event()
    first = await rig.append("service/mcp-core", message)
    assert await rig.append("service/mcp-core", message) == first
    message.action = "delete_pod"
    with pytest.raises(AlreadyExists):
        await rig.append("service/mcp-core", message)


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"event_id": "1"}, "event_id"),
        ({"event_type": 0}, "event_type"),
        ({"result": 0}, "result"),
        ({"result": 99}, "result"),
        ({"timestamp": None}, "timestamp"),
        ({"timestamp": Timestamp(seconds=10**15)}, "timestamp"),
        ({"duration_ms": float("inf")}, "duration_ms"),
        ({"phase": audit_pb2.PHASE_INTENT}, "deadline"),
    ],
)
async def test_a_malformed_event_is_refused_with_its_reason(rig: Rig, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidArgument, match=part):
        await rig.append("service/mcp-core", event(**changes))


@pytest.mark.req("R8", "I2.8")
async def test_the_streams_items_fail_and_succeed_each_for_itself(rig: Rig) -> None:
    call = rig.stub("service/mcp-core").AppendStream()
    fine, refused, late = event(), event(event_type=TYPE.EVENT_TYPE_ADMIN), event()

    def item(number: int, message: audit_pb2.Event, timeout_ms: int = 5000) -> audit_pb2.AppendItem:
        header = stream_pb2.ItemHeader(id=number, timeout_ms=timeout_ms)
        return audit_pb2.AppendItem(header=header, request=audit_pb2.AppendRequest(event=message))

    await call.write(audit_pb2.AppendStreamRequest(items=[item(1, refused), item(2, fine), item(3, late, 0)]))
    answers: dict[int, Any] = {}
    while len(answers) < 3:
        message = await call.read()
        answers |= {answer.id: answer for answer in message.answers}
    assert answers[1].error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert answers[2].response.event_id == fine.event_id
    assert answers[3].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    await call.write(audit_pb2.AppendStreamRequest(items=[item(4, event())]))
    assert (await call.read()).answers[0].id == 4
    await call.done_writing()


@pytest.mark.req("I2.5", "I2.8")
async def test_many_events_over_one_stream_are_all_there_and_verify(rig: Rig) -> None:
    client = AuditClient(rig.peer("service/mcp-core"))
    proof = token("alice", "service/mcp-core")
    messages = [event(metadata={"n": str(n)}) for n in range(300)]
    await asyncio.gather(*(client.append(m, principal_token=proof, deadline=Deadline.after(20)) for m in messages))
    await client.close()
    assert len((rig.directory / "audit.log").read_text().splitlines()) == 300
    verifier = NoteSigner(origin_of("main"), SIGNING_KEY).verifier
    report = verify_store(rig.directory / "audit.db", verifier, rig.directory / "audit.log")
    assert (report.events, report.mirrored) == (300, 300)
    assert report.checkpoints < 300, "commits are shared"
    note = await rig.peer("operator/alice").unary(
        lambda channel: audit_pb2_grpc.AuditServiceStub(channel).GetCheckpoint,
        audit_pb2.GetCheckpointRequest(),
        Deadline.after(5),
    )
    assert verifier.open(note.checkpoint).root == report.root


@pytest.mark.req("R15", "I2.5")
async def test_reading_needs_an_operator_certificate_and_a_token_that_policy_allows(rig: Rig) -> None:
    await rig.append("service/mcp-core", event(action="list_pods"))
    assert [record["action"] for record in await rig.query()] == ["list_pods"]
    assert rig.authz.asked == [("service/audit", "kubegate:audit:read")]
    for subject, peer, error in (
        ("", "operator/alice", Unauthenticated),
        ("viewer", "operator/alice", PermissionDenied),
        ("admin", "service/mcp-core", PermissionDenied),
        ("admin", "platform/billing", PermissionDenied),
    ):
        with pytest.raises(error):
            await rig.query(subject, as_=peer)
    readings = await rig.query(filter=audit_pb2.Filter(event_type=TYPE.EVENT_TYPE_ADMIN))
    assert [(record["user"], record["result"]) for record in readings] == [
        ("admin", "success"), ("", "failure"), ("viewer", "failure"),
    ]  # fmt: skip


@pytest.mark.req("I2.5")
async def test_queries_filter_and_bound_their_messages(rig: Rig) -> None:
    since = Timestamp()
    since.FromDatetime(datetime.now(UTC))
    text = "x" * 4000
    for n in range(50):
        metadata = {f"k{i}": text for i in range(12)}
        kind = audit_pb2.RESULT_ERROR if n % 2 else audit_pb2.RESULT_SUCCESS
        await rig.append("service/mcp-core", event(metadata=metadata, result=kind, namespace=f"n{n}"))
    found = await rig.query(filter=audit_pb2.Filter(result=audit_pb2.RESULT_ERROR, since=since), descending=True)
    assert [record["namespace"] for record in found] == [f"n{n}" for n in range(49, 0, -2)]
    assert await rig.query(filter=audit_pb2.Filter(until=since)) == []
    assert len(await rig.query(filter=audit_pb2.Filter(namespace="n7", action="list_pods", request_id="req-1"))) == 1
    with pytest.raises(InvalidArgument, match="cursor"):
        await rig.query(cursor="nonsense")


@pytest.mark.req("I2.5")
async def test_a_tail_sees_what_is_appended(rig: Rig) -> None:
    metadata = ((PRINCIPAL_TOKEN_METADATA, token("admin", "operator/alice")),)
    request = audit_pb2.TailRequest(filter=audit_pb2.Filter(action="scale_deployment"), from_sequence=0)
    call = rig.stub("operator/alice").Tail(request, metadata=metadata)
    for n in range(3):
        await rig.append("service/mcp-core", event(action="list_pods"))
        sequence = await rig.append("service/mcp-core", event(action="scale_deployment", resource=f"d{n}"))
        response = await call.read()
        assert [record.sequence for record in response.records] == [sequence]
    call.cancel()


@pytest.mark.req("R19", "R15", "R12")
async def test_a_tail_ends_when_its_readers_binding_is_taken_away_though_nothing_comes(rig: Rig) -> None:
    """Over a real lease: what audit learns from WatchPolicy ends the stream, no call and no event of the reader."""
    metadata = ((PRINCIPAL_TOKEN_METADATA, token("auditor", "operator/alice")),)
    request = audit_pb2.TailRequest(filter=audit_pb2.Filter(action="scale_deployment"), from_sequence=0)
    call = rig.stub("operator/alice").Tail(request, metadata=metadata)
    before = await rig.append("service/mcp-core", event(action="scale_deployment"))
    assert [record.sequence for record in (await call.read()).records] == [before]
    rig.authz.take_away("auditor")
    with pytest.raises(aio.AioRpcError) as refusal:
        await call.read()
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await rig.append("service/mcp-core", event(action="scale_deployment"))
    tails = [each for each in await rig.query() if each["action"] == "audit.Tail"]
    assert [(each["user"], each["result"]) for each in tails] == [
        ("auditor", "success"), ("auditor", "failure"), ("auditor", "failure"),
    ]  # fmt: skip
    assert tails[2]["metadata"]["events"] == "1"


@pytest.mark.req("I2.6")
async def test_it_starts_without_authn_not_ready_takes_what_needs_no_token_and_heals(
    mesh: Mesh, tmp_path: Path
) -> None:
    probe = Rig(mesh, tmp_path)
    await probe.serve_surroundings()
    await probe.stop_surroundings()
    try:
        await probe.start()
        assert await probe.health() == health_pb2.HealthCheckResponse.NOT_SERVING
        failure = event(event_type=TYPE.EVENT_TYPE_AUTHENTICATION, result=audit_pb2.RESULT_FAILURE)
        assert await probe.append("service/authn", failure) == 0
        with pytest.raises(Unavailable):
            await probe.append("service/mcp-core", event(), token("alice", "service/mcp-core"))
        await probe.serve_surroundings()
        while await probe.health() != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.05)
        await probe.append("service/mcp-core", event(), token("alice", "service/mcp-core"))
    finally:
        await probe.stop()
        await probe.stop_surroundings()


@pytest.mark.req("I2.1", "I2.5")
async def test_what_is_stored_is_there_after_a_restart(rig: Rig) -> None:
    first = event()
    await rig.append("service/mcp-core", first)
    await rig.stop()
    await rig.start()
    assert await rig.append("service/mcp-core", first) == 0
    assert await rig.append("service/mcp-core", event()) == 1


@pytest.mark.req("I2.7", "R7")
async def test_plaintext_foreign_and_misnamed_peers_are_refused(rig: Rig, tmp_path: Path) -> None:
    request = audit_pb2.AppendRequest(event=event())
    async with aio.insecure_channel(f"127.0.0.1:{rig.port}") as channel:
        with pytest.raises(aio.AioRpcError) as refusal:
            await audit_pb2_grpc.AuditServiceStub(channel).Append(request, timeout=3)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    foreign = Mesh(tmp_path / "foreign").peer("audit", rig.port, "service/mcp-core")
    elsewhere = PeerAddress(address=f"127.0.0.1:{rig.port}", server_name=server_name("authn"))
    misdirected = Peer("authn", elsewhere, rig.mesh.tls("service/mcp-core"))
    for peer in (foreign, misdirected):
        with pytest.raises(DomainError):
            await peer.unary(
                lambda channel: audit_pb2_grpc.AuditServiceStub(channel).Append, request, Deadline.after(3)
            )
        await peer.close()
    with pytest.raises(PermissionDenied):
        await rig.append("operator/alice", event())


@pytest.mark.req("I2.11")
async def test_what_keeps_it_from_starting_is_said_in_words(mesh: Mesh, tmp_path: Path) -> None:
    rig = Rig(mesh, tmp_path)
    config = rig.config()
    busy = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = busy.sockets[0].getsockname()[1]
    with pytest.raises(StartupError, match=f"127.0.0.1:{port}"):
        await main(config.model_copy(update={"listen": f"127.0.0.1:{port}"}))
    busy.close()
    store = tmp_path / "audit.db"
    store.write_bytes(b"not a database" * 1000)
    with pytest.raises(StartupError, match="kubegate audit verify"):
        await main(config)
    store.unlink()
    config.signing_key_file.write_text("nonsense")
    with pytest.raises(StartupError, match="signing key"):
        await main(config)
    config.signing_key_file.chmod(0o644)
    with pytest.raises(StartupError, match="chmod 600"):
        await main(config)


@pytest.mark.req("R21")
async def test_a_process_reports_at_its_start_what_was_left_without_an_outcome(rig: Rig, tmp_path: Path) -> None:
    deadline = Timestamp()
    deadline.FromDatetime(datetime.now(UTC) - timedelta(hours=1))
    unknown = audit_pb2.RESULT_UNKNOWN
    intent = event(phase=audit_pb2.PHASE_INTENT, result=unknown, deadline=deadline, action="scale_deployment")
    await rig.append("service/mcp-core", intent, token("alice", "service/mcp-core"))
    (tmp_path / "home").mkdir()
    rig.write_home(tmp_path / "home")
    await rig.stop()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.audit", "--config", str(rig.directory / "config.yaml"),
        cwd=Path(__file__).parents[2], stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    said: dict[str, Any] = {}
    try:
        while said.get("event") != "intent without outcome":
            line = await process.stderr.readline()
            assert line, "it ended without a report"
            said = json.loads(line)
    finally:
        process.kill()
        await process.wait()
    assert (said["event_id"], said["user"], said["level"]) == (intent.event_id, "alice", "warning")
