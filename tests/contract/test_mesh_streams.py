"""The long-lived streams between the services, over real mTLS gRPC: many questions in flight (R8)."""

import asyncio
from typing import Any

import pytest
from grpc import aio

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import stream_pb2
from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    Internal,
    InvalidArgument,
    Unavailable,
)
from services.common.grpc_server import GrpcServer
from services.common.grpc_stream import StreamClient
from tests.contract.echo import SERVICE, Fixture, client, question


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


async def test_a_closed_client_stays_closed(served: Fixture) -> None:
    peer = served.peer("service/mcp-core")
    stream = client(peer)
    await stream.ask(question("a"), Deadline.after(5))
    await stream.close()
    with pytest.raises(Unavailable):
        await stream.ask(question("b"), Deadline.after(5))
    assert served.echo.asked == ["a"]
    await peer.close()
