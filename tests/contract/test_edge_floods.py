"""Connections that hold on to the edge: nobody else is kept out, and each of them is ended (R25).

Time-outs are configured so short, or so long, that a test can tell which of them ended a connection; no duration is
asserted. Sources are loopback addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from services.mcp_core.edge.connections import ConnectionLimits, Connections
from tests.fakes.https_edge import FOREVER as LIMITS
from tests.fakes.https_edge import GET, PATIENCE, https_edge, make_certificates
from tests.unit.mcp_core.edge.fakes import ALICE, World

FOREVER = replace(LIMITS, most=64, per_source=16)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends a connection on which nothing more is sent."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while await asyncio.wait_for(reader.read(65536), PATIENCE):
            pass
    return True


@pytest.mark.req("R25")
@pytest.mark.parametrize("tls", [True, False])
async def test_a_flood_of_idle_connections_leaves_other_sources_served(certificates: Path, tls: bool) -> None:
    """Held for as long as they like: the source's own share is all that they take, with TLS finished or not."""
    async with https_edge(certificates, FOREVER) as clients:
        held = [await clients.open(tls=tls) for _ in range(FOREVER.per_source)]
        for _ in range(100):
            reader, _ = await clients.open(tls=False)
            assert await ended(reader), "one too many is closed"
        assert b"200" in await clients.ask(source="127.0.0.2")
        for reader, writer in held[:2]:
            writer.transport.abort()
            assert await ended(reader)
        for _ in range(200):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                if b"200" in await clients.ask():
                    return
            await asyncio.sleep(0.02)
        pytest.fail("the places that became free are not given out again")


@pytest.mark.req("R25")
@pytest.mark.parametrize("sent", [b"", b"POST /mcp/tools/look HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_head_that_is_never_complete_is_ended(certificates: Path, sent: bytes) -> None:
    async with https_edge(certificates, replace(FOREVER, head=0.2)) as clients:
        reader, writer = await clients.open()
        writer.write(sent)
        assert await ended(reader)


@pytest.mark.req("R25")
async def test_the_second_head_of_a_connection_is_ended_too_however_slowly_it_drips(certificates: Path) -> None:
    async with https_edge(certificates, replace(FOREVER, head=0.3)) as clients:
        reader, writer = await clients.open()
        writer.write(GET)
        await reader.readuntil(b"}")

        async def drip() -> None:
            writer.write(b"GET /healthz HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"X: 1\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await ended(reader)
        dripping.cancel()


@pytest.mark.req("R25")
async def test_what_never_finishes_tls_is_ended(certificates: Path) -> None:
    async with https_edge(certificates, replace(FOREVER, handshake=0.2)) as clients:
        silent, _ = await clients.open(tls=False)
        talking, writer = await clients.open(tls=False)
        writer.write(b"\x16\x03\x01")
        assert await ended(silent)
        assert await ended(talking)


@pytest.mark.req("R25")
async def test_a_connection_without_requests_is_ended(certificates: Path) -> None:
    async with https_edge(certificates, replace(FOREVER, idle=1)) as clients:
        reader, writer = await clients.open()
        writer.write(GET)
        assert b"200" in await reader.readline()
        assert await ended(reader)


REFUSED = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer no\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.req("R25")
@pytest.mark.parametrize(
    "limits", [replace(FOREVER, linger=0.2), replace(FOREVER, unread=256 * 1024)], ids=["slow", "fast"]
)
async def test_an_endless_body_after_the_answer_is_ended(certificates: Path, limits: ConnectionLimits) -> None:
    async with https_edge(certificates, limits) as clients:
        reader, writer = await clients.open()
        writer.write(REFUSED)
        assert b"401" in await reader.readline()

        async def pour() -> None:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while True:
                    writer.write(b"1000\r\n" + b"a" * 4096 + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)

        pouring = asyncio.create_task(pour())
        assert await ended(reader)
        pouring.cancel()


async def test_a_body_that_ends_after_the_answer_costs_nothing(certificates: Path) -> None:
    """The refused client reads its answer, and the connection serves on."""
    async with https_edge(certificates, FOREVER) as clients:
        reader, writer = await clients.open()
        writer.write(REFUSED + b"1\r\na\r\n")
        assert b"401" in await reader.readline()
        writer.write(b"0\r\n\r\n" + GET)
        assert b"200" in (await asyncio.wait_for(reader.readuntil(b'"ok"'), PATIENCE))


@pytest.mark.req("R25")
async def test_a_client_that_does_not_take_its_answers_is_ended(certificates: Path) -> None:
    async with https_edge(certificates, replace(FOREVER, stall=0.2)) as clients:
        reader, writer = await clients.open()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while not writer.transport.is_closing():
                writer.write(request * 100)
                await writer.drain()
                await asyncio.sleep(0)
        assert await ended(reader)


async def test_a_request_in_flight_outlives_every_wait_for_the_client(certificates: Path) -> None:
    world = World()
    begun, release = asyncio.Event(), asyncio.Event()

    async def run(invocation: object) -> dict[str, list[str]]:
        begun.set()
        await release.wait()
        return {"done": []}

    world.run = run
    body = b'{"namespace":"default"}'
    request = (
        b"POST /mcp/tools/look HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
        % (ALICE.encode(), len(body), body)
    )
    short = replace(FOREVER, head=0.1, idle=1, linger=0.1, stall=0.1)
    async with https_edge(certificates, short, world) as clients:
        answer = asyncio.create_task(clients.ask(request))
        await begun.wait()
        idle, _ = await clients.open()
        assert await ended(idle), "the time of a head has passed"
        release.set()
        assert b"200" in await answer


def test_a_place_is_counted_by_source_and_given_back() -> None:
    places = Connections(ConnectionLimits(most=5, per_source=3))
    assert [places.enter("2001:db8::1"), places.enter("2001:db8::2"), places.enter("2001:db8::3")] == [True] * 3
    assert not places.enter("2001:db8::4"), "one host owns a whole /64"
    assert [places.enter("192.0.2.1"), places.enter("::ffff:192.0.2.1")] == [True] * 2
    assert not places.enter("192.0.2.2"), "all places are taken"
    places.leave("2001:db8::4")
    assert places.enter("192.0.2.2")
    for address in ("2001:db8::1", "2001:db8::1", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
        places.leave(address)
    assert not places._of, "nothing is remembered of who has gone"


async def test_the_listener_survives_a_system_without_descriptors(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, 2

    async def scarce(listener: socket.socket) -> tuple[socket.socket, object]:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(24, "Too many open files")
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", scarce)
    async with https_edge(certificates, FOREVER) as clients:
        assert b"200" in await clients.ask()
    assert failures == 0
