"""The ground that all services stand on, over real mTLS gRPC: who may call, deadlines, streams (R7, R8)."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
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
from kubegate.common.v1 import stream_pb2
from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc_client import Peer
from services.common.grpc_server import PROBLEMS_METADATA, GrpcServer, current_call, matches, method_callers
from services.common.grpc_stream import StreamClient, serve_stream
from services.common.runtime_errors import StartupError
from services.common.tls import peer_path
from tests.fakes.holding_proxy import HoldingProxy
from tests.fakes.mesh import Mesh

SERVICE = "kubegate.authz.v1.AuthzService"
ALL_SERVICES = [
    service.full_name
    for module in (audit_pb2, authn_pb2, authz_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]


class Echo(authz_pb2_grpc.AuthzServiceServicer):
    """Answers with what it knows of the call; the request id says how to misbehave."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.breaks = 0
        self.asked: list[str] = []

    async def Check(self, request: Any, context: Any) -> authz_pb2.CheckResponse:
        return await self.check(request)

    async def ListAllowed(self, request: Any, context: Any) -> authz_pb2.ListAllowedResponse:
        return authz_pb2.ListAllowedResponse()

    async def CheckStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        broken = asyncio.Event()

        async def check_or_break(request: Any) -> authz_pb2.CheckResponse:
            answer = await self.check(request)
            if request.request_id == "break" and self.breaks:
                self.breaks -= 1
                broken.set()
                await asyncio.Event().wait()
            return answer

        answers = serve_stream(
            request_iterator,
            check_or_break,
            response_type=authz_pb2.CheckStreamResponse,
            answer_type=authz_pb2.CheckAnswer,
            limit=8,
        )
        breaking = asyncio.ensure_future(broken.wait())
        while True:
            following = asyncio.ensure_future(anext(answers, None))
            await asyncio.wait({following, breaking}, return_when=asyncio.FIRST_COMPLETED)
            if breaking.done():
                following.cancel()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
            if (response := following.result()) is None:
                break
            yield response
        breaking.cancel()

    async def check(self, request: Any) -> authz_pb2.CheckResponse:
        self.asked.append(request.request_id)
        match request.request_id:
            case "hold":
                await self.release.wait()
            case "refuse":
                raise InvalidArgument("malformed", retry_after=2.5)
            case "crash":
                raise ValueError("kg_id_secret")
        return authz_pb2.CheckResponse(policy_revision=current_call().peer, event_id=request.request_id)


class Fixture:
    def __init__(self, mesh: Mesh, echo: Echo, port: int, server: GrpcServer) -> None:
        self.mesh, self.echo, self.port, self.server = mesh, echo, port, server
        self.problems: list[str] = []

    def peer(self, as_: str, service: str = "authz", mesh: Mesh | None = None) -> Peer:
        return (mesh or self.mesh).peer(service, self.port, as_)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Fixture]:
    mesh, echo = Mesh(tmp_path), Echo()
    problems: list[str] = []
    server = GrpcServer("127.0.0.1:0", mesh.tls("service/authz"), lambda: problems)
    server.add(authz_pb2_grpc.add_AuthzServiceServicer_to_server, echo, SERVICE)
    fixture = Fixture(mesh, echo, await server.start(), server)
    fixture.problems = problems
    yield fixture
    echo.release.set()
    await server.stop(0)


async def ask(peer: Peer, request_id: str = "a", seconds: float = 5) -> authz_pb2.CheckResponse:
    try:
        answer: authz_pb2.CheckResponse = await peer.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check,
            authz_pb2.CheckRequest(request_id=request_id),
            Deadline.after(seconds),
        )
        return answer
    finally:
        await peer.close()


def client(peer: Peer, **options: Any) -> StreamClient[authz_pb2.CheckRequest, authz_pb2.CheckResponse]:
    return StreamClient(
        peer,
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).CheckStream,
        authz_pb2.CheckStreamRequest,
        authz_pb2.CheckItem,
        **options,
    )


def question(request_id: str) -> authz_pb2.CheckRequest:
    return authz_pb2.CheckRequest(request_id=request_id)


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


@pytest.mark.req("R8", "I2.8")
async def test_one_held_item_does_not_hold_the_others(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    held = asyncio.create_task(stream.ask(question("hold"), Deadline.after(20)))
    others = [await stream.ask(question(f"q{n}"), Deadline.after(20)) for n in range(5)]
    assert [answer.event_id for answer in others] == [f"q{n}" for n in range(5)]
    assert not held.done()
    served.echo.release.set()
    assert (await held).event_id == "hold"
    await stream.close()
    await peer.close()


@pytest.mark.req("R8", "I2.8")
async def test_an_items_error_never_ends_the_stream(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    with pytest.raises(InvalidArgument, match="malformed") as refused:
        await stream.ask(question("refuse"), Deadline.after(5))
    assert refused.value.retry_after == 2.5
    with pytest.raises(Internal) as crashed:
        await stream.ask(question("crash"), Deadline.after(5))
    assert "secret" not in crashed.value.public_message
    with pytest.raises(DeadlineExceeded):
        await stream.ask(question("hold"), Deadline.after(0.3))
    assert (await stream.ask(question("a"), Deadline.after(5))).event_id == "a"
    await stream.close()
    await peer.close()


@pytest.mark.req("R8", "I2.8")
async def test_items_in_flight_are_bounded_on_both_sides(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer, limit=12)
    held = [asyncio.create_task(stream.ask(question("hold"), Deadline.after(20))) for _ in range(12)]
    while len(served.echo.asked) < 8:
        await asyncio.sleep(0.01)
    with pytest.raises(DomainError, match="waiting"):
        await stream.ask(question("a"), Deadline.after(20))
    assert len(served.echo.asked) == 8, "the server reads no further than its limit"
    served.echo.release.set()
    assert len(await asyncio.gather(*held)) == 12
    await stream.close()
    await peer.close()


@pytest.mark.req("R8", "I2.6", "I2.8")
async def test_a_broken_stream_fails_closed_and_heals(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    held = asyncio.create_task(stream.ask(question("hold"), Deadline.after(20)))
    while not served.echo.asked:
        await asyncio.sleep(0.01)
    await served.server.stop(0)
    with pytest.raises(Unavailable):
        await held
    with pytest.raises(Unavailable):
        await stream.ask(question("a"), Deadline.after(5))
    revived = GrpcServer(f"127.0.0.1:{served.port}", served.mesh.tls("service/authz"), list)
    revived.add(authz_pb2_grpc.add_AuthzServiceServicer_to_server, served.echo, SERVICE)
    await revived.start()
    for _ in range(200):
        try:
            assert (await stream.ask(question("a"), Deadline.after(5))).event_id == "a"
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    else:
        pytest.fail("the stream did not heal")
    await stream.close()
    await peer.close()
    await revived.stop(0)


@pytest.mark.req("R8")
async def test_a_stream_is_renewed_before_the_old_one_ends(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer, max_age=0.0)
    held = asyncio.create_task(stream.ask(question("hold"), Deadline.after(20)))
    while not served.echo.asked:
        await asyncio.sleep(0.01)
    assert (await stream.ask(question("a"), Deadline.after(5))).event_id == "a"
    assert not held.done(), "the old stream still owes its answer"
    served.echo.release.set()
    assert (await held).event_id == "hold"
    await stream.close()
    await peer.close()


@pytest.mark.req("R8")
async def test_a_stream_grows_no_older_than_its_jittered_maximum_age(served: Fixture) -> None:
    now = [0.0]
    peer = served.peer("service/mcp-core")
    opened: list[Any] = []

    def method(channel: aio.Channel) -> Any:
        opened.append(channel)
        return authz_pb2_grpc.AuthzServiceStub(channel).CheckStream

    stream: StreamClient[Any, Any] = StreamClient(
        peer, method, authz_pb2.CheckStreamRequest, authz_pb2.CheckItem, max_age=100.0, now=lambda: now[0]
    )
    for now[0], streams in ((0.0, 1), (89.9, 1), (100.0, 2), (189.9, 2), (200.0, 3)):
        await stream.ask(question("a"), Deadline.after(5))
        assert len(opened) == streams, now
    await stream.close()
    await peer.close()


@pytest.mark.req("R8")
async def test_a_question_in_flight_is_asked_once_more_after_a_break(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    served.echo.breaks = 1
    assert (await stream.ask(question("break"), Deadline.after(20))).event_id == "break"
    assert served.echo.asked == ["break", "break"]
    served.echo.breaks = 9
    with pytest.raises(Unavailable):
        await stream.ask(question("break"), Deadline.after(20))
    assert served.echo.asked == ["break"] * 4, "once more, and no oftener"
    await stream.close()
    await peer.close()


@pytest.mark.req("R8")
async def test_a_patient_question_is_asked_until_it_is_answered(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer, patience=20.0)
    served.echo.breaks = 5
    assert (await stream.ask(question("break"), Deadline.after(20))).event_id == "break"
    assert served.echo.asked == ["break"] * 6
    await stream.close()
    await peer.close()


@pytest.mark.req("R8")
async def test_answers_that_nobody_takes_count_as_in_flight(served: Fixture) -> None:
    """A peer that writes and never reads cannot fill the server's memory."""
    peer = served.peer("service/mcp-core")
    call = authz_pb2_grpc.AuthzServiceStub(peer.channel()).CheckStream()
    big = "q" * 20_000  # larger answers than the transport's buffers hold
    sent = 0

    async def write() -> None:
        nonlocal sent
        while sent < 20_000:
            sent += 1
            header = stream_pb2.ItemHeader(id=sent, timeout_ms=60_000)
            await call.write(
                authz_pb2.CheckStreamRequest(items=[authz_pb2.CheckItem(header=header, request=question(big))])
            )

    writer = asyncio.create_task(write())
    before = -1
    while len(served.echo.asked) != before:
        before = len(served.echo.asked)
        await asyncio.sleep(1)
    assert not writer.done(), "the writer is held back"
    assert len(served.echo.asked) < 2_000
    writer.cancel()
    call.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await peer.close()


@pytest.mark.req("R8")
async def test_large_items_never_make_a_message_that_the_server_refuses(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    large = [question(f"{n}-" + "x" * 60_000) for n in range(200)]
    answers = await asyncio.gather(*(stream.ask(each, Deadline.after(30)) for each in large))
    assert [answer.event_id for answer in answers] == [each.request_id for each in large]
    await stream.close()
    await peer.close()


@pytest.mark.req("R8")
async def test_a_slow_handshake_is_not_a_failed_call(served: Fixture) -> None:
    """Across zones, or on a busy machine, connecting takes longer than the back-off between two attempts."""
    with HoldingProxy(served.port).serving() as proxy:
        proxy.answers.clear()
        calling = asyncio.create_task(ask(served.mesh.peer("authz", proxy.port, "service/mcp-core")))
        await asyncio.wait({calling}, timeout=1.5)
        proxy.answers.set()
        assert (await calling).event_id == "a"


async def test_a_closed_client_stays_closed(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    await stream.ask(question("a"), Deadline.after(5))
    await stream.close()
    with pytest.raises(Unavailable):
        await stream.ask(question("b"), Deadline.after(5))
    assert served.echo.asked == ["a"]
    await peer.close()


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
    await asyncio.sleep(0.1)
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
    await peer.close()


@pytest.mark.req("I2.11")
async def test_a_port_in_use_is_said_in_words(served: Fixture) -> None:
    second = GrpcServer(f"127.0.0.1:{served.port}", served.mesh.tls("service/authz"), list)
    with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{served.port}.*in use"):
        await second.start()
