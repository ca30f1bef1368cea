"""The scrape endpoint and the export of spans over real sockets: who may read, and what leaves the machine (I9.9)."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import grpc
import pydantic
import pytest
import structlog

from services.cli.placing import free_port
from services.common.runtime_errors import StartupError
from services.common.telemetry import metrics, otlp, tracing
from services.common.telemetry.config import MetricsConfig, TelemetryConfig, TracesConfig
from services.common.telemetry.process import Facts, Telemetry
from services.common.telemetry.trace_context import TraceContext
from services.common.tls import server_name
from tests.fakes.mesh import Mesh
from tests.fakes.otlp_receiver import OtlpReceiver


async def ask(
    port: int, target: str = "/metrics", *, method: str = "GET", context: ssl.SSLContext | None = None
) -> tuple[int, str, str]:
    """Status, head and body."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=server_name("authn") if context else None
    )
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 20)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]) if head else 0, head, body


def client(mesh: Mesh, path: str, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    tls = mesh.tls(path)
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    context.maximum_version = newest
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


async def serving(mesh: Mesh, listen: str, facts: Facts | None = None) -> tuple[Telemetry, int]:
    config = TelemetryConfig(metrics=MetricsConfig(listen=listen))
    telemetry = Telemetry("authn", config, mesh.tls("service/authn"), metrics.AUTHN)
    await telemetry.start(facts or Facts(list))
    listener: Any = telemetry._listener
    return telemetry, listener._server.sockets[0].getsockname()[1]


@pytest.mark.req("I9.9")
async def test_loopback_is_read_in_the_clear_and_nothing_else_is_there(tmp_path: Path) -> None:
    facts = Facts(lambda: ["store: full"], lambda: ["look here"], lambda: "credentials 7", lambda: "3 abc")
    telemetry, port = await serving(Mesh(tmp_path), "127.0.0.1:0", facts)
    try:
        status, head, body = await ask(port)
        assert status == 200
        assert "text/plain; version=" in head
        assert "kubegate_ready 0.0" in body
        assert "# TYPE mcp_authentication_attempts_total counter" in body
        assert "kubegate_audit_log_events" not in body
        status, _, body = await ask(port, "/status")
        told = json.loads(body)
        assert (status, told["service"], told["problems"], told["notices"]) == (
            *(200, "authn", ["store: full"]),
            ["look here"],
        )
        assert (told["revision"], told["head"]) == ("credentials 7", "3 abc")
        assert (await ask(port, "/"))[0] == 404
        assert (await ask(port, "/etc/passwd"))[0] == 404
        assert (await ask(port, method="POST"))[0] == 405
        assert (await ask(port, "/metrics\r\nx: " + "y" * 40_000))[0] in (0, 431)
    finally:
        await telemetry.stop()


@pytest.mark.req("I9.9")
async def test_elsewhere_only_named_readers_with_a_certificate_read(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path / "mesh")
    telemetry, port = await serving(mesh, "0.0.0.0:0")
    try:
        for reader in ("platform/prometheus", "operator/alice"):
            status, _, body = await ask(port, context=client(mesh, reader))
            assert status == 200
            assert "kubegate_ready" in body
        for other in ("platform/billing", "service/mcp-core", "service/authn"):
            status, _, body = await ask(port, context=client(mesh, other))
            assert status == 403
            assert "kubegate_ready" not in body
        anonymous = ssl.create_default_context(cafile=str(mesh.tls("operator/alice").ca_file))
        foreign = client(Mesh(tmp_path / "foreign"), "platform/prometheus")
        foreign.load_verify_locations(mesh.tls("operator/alice").ca_file)
        old = client(mesh, "platform/prometheus", newest=ssl.TLSVersion.TLSv1_2)
        for context in (anonymous, foreign, old):
            try:
                status, _, body = await ask(port, context=context)
            except OSError:
                continue
            # TLS 1.3: the client's side of the handshake is over before the server has looked at its certificate.
            assert (status, body) == (0, "")
        plain = await asyncio.open_connection("127.0.0.1", port)
        plain[1].write(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"kubegate" not in await plain[0].read()
        plain[1].close()
    finally:
        await telemetry.stop()


@pytest.mark.req("I9.9")
async def test_a_rotated_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    telemetry, port = await serving(mesh, "0.0.0.0:0")

    async def shown() -> bytes:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client(mesh, "operator/alice"), server_hostname=server_name("authn")
        )
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return certificate

    try:
        before = await shown()
        mesh.authority.mesh("service/authn").write(tmp_path / "service/authn", mesh.authority.certificate)
        assert await shown() != before
    finally:
        await telemetry.stop()


@pytest.mark.req("I9.9")
async def test_nothing_listens_and_nothing_is_sent_unless_configured(tmp_path: Path) -> None:
    telemetry = Telemetry("authn", TelemetryConfig(), Mesh(tmp_path).tls("service/authn"), metrics.AUTHN)
    await telemetry.start(Facts(list))
    assert telemetry._listener is None
    assert telemetry._backend is None
    with tracing.entering("x", None, trusted=False) as root:
        assert tracing.span("y") is tracing.NO_SPAN
        assert not root.context.sampled  # type: ignore[union-attr]
    await telemetry.stop()


@pytest.mark.req("I9.9")
async def test_an_address_in_use_is_said_with_the_next_step(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    telemetry, port = await serving(mesh, "127.0.0.1:0")
    try:
        with pytest.raises(StartupError, match=r"telemetry\.metrics: cannot listen on .*choose another address"):
            await serving(mesh, f"127.0.0.1:{port}")
    finally:
        await telemetry.stop()


def collector(mesh: Mesh) -> OtlpReceiver:
    """One that takes spans from the mesh alone."""
    tls = mesh.tls("service/collector")
    receiver = OtlpReceiver(
        grpc.ssl_server_credentials(
            [(tls.key_file.read_bytes(), tls.cert_file.read_bytes())],
            tls.ca_file.read_bytes(),
            require_client_auth=True,
        )
    )
    receiver.start()
    return receiver


async def exporting(mesh: Mesh, receiver: OtlpReceiver) -> Telemetry:
    traces = TracesConfig(endpoint=receiver.address, server_name=server_name("collector"), sample_ratio=1.0)
    telemetry = Telemetry("authn", TelemetryConfig(traces=traces), mesh.tls("service/authn"), metrics.AUTHN)
    await telemetry.start(Facts(list))
    return telemetry


@pytest.mark.req("I9.4")
async def test_spans_leave_the_machine_over_mtls_only(tmp_path: Path) -> None:
    with pytest.raises(pydantic.ValidationError, match="server_name"):
        TracesConfig(endpoint="collector:4317")
    mesh = Mesh(tmp_path)
    receiver = collector(mesh)
    telemetry = await exporting(mesh, receiver)
    try:
        with tracing.entering("outer", None, trusted=False), tracing.span("inner"):
            pass
    finally:
        await telemetry.stop()
        receiver.stop()
    inner, outer = sorted(receiver.all(), key=lambda span: span.name)
    assert (inner.name, inner.parent_id, outer.parent_id) == ("inner", outer.span_id, "")
    assert inner.trace_id == outer.trace_id
    assert outer.service == "kubegate-authn"


@pytest.mark.req("I9.4")
async def test_a_rotated_certificate_is_shown_to_the_collector_without_a_restart(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    receiver = collector(mesh)
    telemetry = await exporting(mesh, receiver)
    backend: Any = telemetry._backend
    files = mesh.tls("service/authn")

    async def send(name: str) -> None:
        with tracing.entering(name, None, trusted=False):
            pass
        await asyncio.to_thread(backend._provider.force_flush)

    shown = [files.cert_file.read_bytes()]
    try:
        await send("first")
        # Half replaced: what works goes on working.
        files.key_file.rename(tmp_path / "key")
        await send("second")
        shown.append(shown[0])
        mesh.authority.mesh("service/authn").write(tmp_path / "service/authn", mesh.authority.certificate)
        await send("third")
        shown.append(files.cert_file.read_bytes())
    finally:
        await telemetry.stop()
        receiver.stop()
    assert [span.name for span in receiver.all()] == ["first", "second", "third"]
    assert receiver.certificates == shown
    assert shown[2] != shown[0]


@pytest.mark.req("I9.4")
async def test_sampling_is_decided_once_at_the_beginning_of_a_trace(tmp_path: Path) -> None:
    receiver = OtlpReceiver()
    receiver.start()
    traces = TracesConfig(endpoint=receiver.address, sample_ratio=0.25)
    telemetry = Telemetry("authn", TelemetryConfig(traces=traces), Mesh(tmp_path).tls("service/authn"), ())
    await telemetry.start(Facts(list))
    forced = TraceContext("f" * 32, "1" * 16, sampled=True)
    dropped = TraceContext("0" * 31 + "1", "1" * 16, sampled=False)
    try:
        for _ in range(400):
            with tracing.entering("root", None, trusted=False), tracing.span("below"):
                pass
        with tracing.entering("client says yes", forced, trusted=False):
            pass
        with tracing.entering("client says no", dropped, trusted=False):
            pass
        with tracing.entering("service says yes", forced, trusted=True):
            pass
        with tracing.entering("service says no", dropped, trusted=True):
            pass
    finally:
        await telemetry.stop()
        receiver.stop()
    names = [span.name for span in receiver.all()]
    # 400 traces at a quarter: 100 of them, give or take seven standard deviations; and never half a trace.
    assert 40 <= names.count("root") <= 160
    assert names.count("root") == names.count("below")
    # A client's flag is no order, and its trace id decides as any other would; between services the flag decides.
    assert "client says yes" not in names
    assert "client says no" in names
    assert "service says yes" in names
    assert "service says no" not in names


@pytest.mark.req("I9.4", "I9.16")
async def test_a_collector_that_is_away_is_two_lines_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Too little for a second attempt.
    monkeypatch.setattr(otlp, "EXPORT_SECONDS", 0.5)
    address = f"127.0.0.1:{free_port()}"
    traces = TracesConfig(endpoint=address, sample_ratio=1.0)
    telemetry = Telemetry("authn", TelemetryConfig(traces=traces), Mesh(tmp_path).tls("service/authn"), ())
    await telemetry.start(Facts(list))
    backend: Any = telemetry._backend

    async def send() -> None:
        with tracing.entering("span", None, trusted=False):
            pass
        await asyncio.to_thread(backend._provider.force_flush)

    receiver: OtlpReceiver | None = None
    with structlog.testing.capture_logs() as lines:
        try:
            for _ in range(3):
                await send()
            receiver = OtlpReceiver(address=address)
            receiver.start()
            while not receiver.all():
                await send()
        finally:
            await telemetry.stop()
            if receiver is not None:
                receiver.stop()
    assert [(line["event"], line["collector"]) for line in lines] == [
        ("spans not taken", address),
        ("spans taken again", address),
    ]
    assert "UNAVAILABLE" in lines[0]["reason"]
    assert not caplog.records


@pytest.mark.req("I9.4")
async def test_a_collector_that_is_away_costs_nobody_anything(tmp_path: Path) -> None:
    traces = TracesConfig(endpoint="127.0.0.1:9", sample_ratio=1.0)
    telemetry = Telemetry("authn", TelemetryConfig(traces=traces), Mesh(tmp_path).tls("service/authn"), ())
    await telemetry.start(Facts(list))
    for _ in range(5000):
        with tracing.entering("lost", None, trusted=False):
            pass
    await telemetry.stop()
