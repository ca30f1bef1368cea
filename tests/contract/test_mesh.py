"""The ground that all services stand on, over real mTLS gRPC: who may call, deadlines, certificates (R7)."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import authn_pb2
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    Internal,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc_server import PROBLEMS_METADATA, GrpcServer, matches, method_callers
from services.common.runtime_errors import StartupError
from services.common.tls import peer_path
from tests.contract.echo import SERVICE, Echo, Fixture, ask, client, question
from tests.fakes.holding_proxy import HoldingProxy
from tests.fakes.mesh import Mesh

ALL_SERVICES = [
    service.full_name
    for module in (audit_pb2, authn_pb2, authz_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


@pytest.mark.req("R7", "I2.7")
async def test_the_peer_is_named_by_its_certificate(served: Fixture) -> None:
    assert (await ask(served.peer("service/mcp-core"))).policy_revision == "service/mcp-core"
    assert (await ask(served.peer("platform/billing"))).policy_revision == "platform/billing"


@pytest.mark.req("R7", "I2.7")
@pytest.mark.parametrize("path", ["operator/admin", "service/other", "platform/a/b", "platform/", "service/mcp-core/x"])
async def test_a_caller_outside_the_methods_list_is_refused(served: Fixture, path: str) -> None:
    with pytest.raises(PermissionDenied):
        await ask(served.peer(path))
    assert served.echo.asked == []


@pytest.mark.req("R7", "I2.7")
async def test_a_stream_is_refused_like_a_call(served: Fixture) -> None:
    peer = served.peer("service/audit")
    stream = client(peer)
    # A status of the stream itself is our own fault, never the answer to somebody's question.
    with pytest.raises(Unavailable):
        await stream.ask(question("a"), Deadline.after(5))
    assert served.echo.asked == []
    await stream.close()
    await peer.close()


@pytest.mark.req("R7", "I2.7")
async def test_a_foreign_certificate_is_refused(served: Fixture, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await ask(served.peer("service/mcp-core", mesh=Mesh(tmp_path / "foreign")))
    assert served.echo.asked == []


@pytest.mark.req("R7", "I2.7")
async def test_plaintext_and_certificateless_clients_are_refused(served: Fixture) -> None:
    target = f"127.0.0.1:{served.port}"
    ca = served.mesh.tls("service/authz").ca_file.read_bytes()
    override = [("grpc.ssl_target_name_override", "authz.kubegate.internal")]
    for channel in (
        aio.insecure_channel(target),
        aio.secure_channel(target, grpc.ssl_channel_credentials(ca), options=override),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await authz_pb2_grpc.AuthzServiceStub(channel).Check(question("a"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await channel.close()
    assert served.echo.asked == []


@pytest.mark.req("R7", "I2.7")
@pytest.mark.parametrize("impostor", ["platform/billing", "operator/admin", "service/audit"])
async def test_another_certificate_serving_in_a_services_place_is_refused(tmp_path: Path, impostor: str) -> None:
    mesh, echo = Mesh(tmp_path), Echo()
    server = GrpcServer("127.0.0.1:0", mesh.tls(impostor), list)
    server.add(authz_pb2_grpc.add_AuthzServiceServicer_to_server, echo, SERVICE)
    port = await server.start()
    with pytest.raises(Unavailable):
        await ask(mesh.peer("authz", port, "service/mcp-core"))
    assert echo.asked == []
    await server.stop(0)


@pytest.mark.req("R7", "I2.7")
def test_tls_below_1_3_is_refused() -> None:
    good = {"ssl_tls_version": [b"TLSv1.3"], "peer_spiffe_id": [b"spiffe://kubegate.internal/service/authn"]}
    assert peer_path(good) == "service/authn"
    for bad in (
        {**good, "ssl_tls_version": [b"TLSv1.2"]},
        {"peer_spiffe_id": good["peer_spiffe_id"]},
        {"ssl_tls_version": good["ssl_tls_version"]},
        {**good, "peer_spiffe_id": [b"spiffe://elsewhere/service/authn"]},
        {**good, "peer_spiffe_id": good["peer_spiffe_id"] * 2},
    ):
        with pytest.raises(Unauthenticated):
            peer_path(bad)


@pytest.mark.req("R7", "I2.7")
@pytest.mark.parametrize("service", ALL_SERVICES)
def test_every_method_names_its_callers(service: str) -> None:
    callers = method_callers(service)
    assert callers
    for method, allow in callers.items():
        assert allow, method
        assert all(entry.split("/")[0] in ("service", "operator", "platform") for entry in allow), method
        assert "*" not in allow and "service/*" not in allow, method


def test_a_wildcard_stands_for_one_segment() -> None:
    assert matches("platform/a", ["platform/*"])
    assert not matches("platform", ["platform/*"])
    assert not matches("platform/a/b", ["platform/*"])
    assert not matches("platforms/a", ["platform/*"])


@pytest.mark.req("R8")
async def test_a_slow_handshake_is_not_a_failed_call(served: Fixture) -> None:
    """Across zones, or on a busy machine, connecting takes longer than the back-off between two attempts."""
    with HoldingProxy(served.port).serving() as proxy:
        proxy.answers.clear()
        calling = asyncio.create_task(ask(served.mesh.peer("authz", proxy.port, "service/mcp-core")))
        await asyncio.wait({calling}, timeout=1.5)
        proxy.answers.set()
        assert (await calling).event_id == "a"


def _served_certificate(served: Fixture) -> bytes:
    tls = served.mesh.tls("service/mcp-core")
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    context.load_cert_chain(tls.cert_file, tls.key_file)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", served.port)) as raw,
        context.wrap_socket(raw, server_hostname="authz.kubegate.internal") as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def _der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)


@pytest.mark.req("R8")
async def test_a_server_follows_its_rotated_certificate_without_a_restart(served: Fixture) -> None:
    files = served.mesh.tls("service/authz")
    assert await asyncio.to_thread(_served_certificate, served) == _der(files.cert_file)
    served.mesh.authority.mesh("service/authz").write(files.cert_file.parent, served.mesh.authority.certificate)
    after = await asyncio.to_thread(_served_certificate, served)
    assert after == _der(files.cert_file)
    files.key_file.unlink()
    assert await asyncio.to_thread(_served_certificate, served) == after, "half-replaced files change nothing"


@pytest.mark.req("R8")
async def test_a_client_follows_its_rotated_certificate_and_keeps_what_is_in_flight(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    held = asyncio.create_task(stream.ask(question("hold"), Deadline.after(20)))
    while not served.echo.asked:
        await asyncio.sleep(0.01)
    before = peer.channel()
    assert peer.channel() is before
    files = served.mesh.tls("service/mcp-core")
    files.key_file.rename(files.key_file.with_suffix(".away"))
    assert peer.channel() is before, "half-replaced files change nothing"
    served.mesh.authority.mesh("service/mcp-core").write(files.cert_file.parent, served.mesh.authority.certificate)
    assert peer.channel() is not before
    served.echo.release.set()
    assert (await held).event_id == "hold"
    await stream.close()
    await peer.close()


async def test_a_missing_certificate_of_our_own_is_unavailable(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    served.mesh.tls("service/mcp-core").cert_file.unlink()
    with pytest.raises(Unavailable):
        await ask(peer)


@pytest.mark.req("R8", "I2.6")
async def test_a_stopping_server_answers_what_is_in_flight_and_takes_no_more(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    held = asyncio.create_task(stream.ask(question("hold"), Deadline.after(20)))
    while not served.echo.asked:
        await asyncio.sleep(0.01)
    stopping = asyncio.create_task(served.server.stop(20))
    while not served.server._stopping.is_set():
        await asyncio.sleep(0)
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await stream.ask(question("late"), Deadline.after(1))
    assert "late" not in served.echo.asked
    served.echo.release.set()
    assert (await held).event_id == "hold"
    await stopping
    await stream.close()
    await peer.close()


async def test_a_crash_is_a_fixed_sentence(served: Fixture) -> None:
    with pytest.raises(Internal) as caught:
        await ask(served.peer("service/mcp-core"), "crash")
    assert "kg_id" not in str(caught.value)


async def test_too_little_time_is_refused_before_asking(served: Fixture) -> None:
    with pytest.raises(DeadlineExceeded):
        await ask(served.peer("service/mcp-core"), seconds=0.05)
    assert served.echo.asked == []


@pytest.mark.req("I2.8")
async def test_health_says_what_is_missing_and_reflection_is_off(served: Fixture) -> None:
    peer = served.peer("operator/admin")
    health = health_pb2_grpc.HealthStub(peer.channel())
    assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == 1
    served.problems.append("store: not writable")
    call = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert (await call).status == 2
    trailing = dict(await call.trailing_metadata())
    assert trailing[PROBLEMS_METADATA] == b"store: not writable"
    reflect: Any = peer.channel().stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(aio.AioRpcError) as caught:
        async for _ in reflect(iter([b""]), timeout=5):
            pass
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(aio.AioRpcError) as caught:
        await health.Watch(health_pb2.HealthCheckRequest(), timeout=5).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(aio.AioRpcError) as caught:
        await health.List(health_pb2.HealthListRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await peer.close()


@pytest.mark.req("I2.11")
async def test_a_port_in_use_is_said_in_words(served: Fixture) -> None:
    second = GrpcServer(f"127.0.0.1:{served.port}", served.mesh.tls("service/authz"), list)
    with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{served.port}.*in use"):
        await second.start()
