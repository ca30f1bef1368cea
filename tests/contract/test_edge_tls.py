"""TLS at the edge: which versions and suites there are, and what becomes of a client certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.https_edge import FOREVER, GET, PATIENCE, EdgeClients, https_edge, make_certificates
from tests.unit.mcp_core.edge.fakes import ALICE, World

LINGER = replace(FOREVER, linger=0.2)
ASK = b"GET /mcp/resources HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n" % ALICE.encode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def world() -> World:
    return World(burst=1000)


@pytest.fixture
async def clients(certificates: Path, world: World) -> AsyncIterator[EdgeClients]:
    async with https_edge(certificates, LINGER, world) as clients:
        yield clients


@pytest.mark.req("I6.28")
async def test_tls_is_1_3_or_1_2_with_aead_and_nothing_else(clients: EdgeClients) -> None:
    def settings(low: ssl.TLSVersion, high: ssl.TLSVersion, suites: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
        context = clients.context()
        context.minimum_version, context.maximum_version = low, high
        context.set_ciphers(suites)
        return context

    async def negotiated(context: ssl.SSLContext) -> tuple[str, str]:
        _, writer = await clients.open(context=context)
        suite = writer.get_extra_info("cipher")
        return str(writer.get_extra_info("ssl_object").version()), str(suite[0])

    every = [settings(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3), clients.context()]
    for context in every:
        assert (await negotiated(context))[0] == "TLSv1.3", "preferred"
    old = await negotiated(settings(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2))
    assert old[0] == "TLSv1.2"
    aead = [name for name in _suites() if ("AES" in name and "GCM" in name) or "CHACHA20" in name]
    for name in _suites():
        context = settings(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, f"{name}:@SECLEVEL=0")
        if name in aead and name.startswith("ECDHE-ECDSA"):
            assert await negotiated(context) == ("TLSv1.2", name)
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await clients.open(context=context)
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.warns(DeprecationWarning, match="TLSVersion"), pytest.raises((ssl.SSLError, ConnectionError)):
            await clients.open(context=settings(version, version))
    reader, writer = await clients.open(tls=False)
    writer.write(GET)
    assert not (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP"), "no plain HTTP"


def _suites() -> list[str]:
    """Every suite of TLS 1.2 that this machine's OpenSSL can offer with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:!aNULL:!PSK:!SRP:@SECLEVEL=0")
    return [suite["name"] for suite in context.get_ciphers() if not suite["name"].startswith("TLS_")]


@pytest.mark.req("I6.28", "I3.3")
async def test_a_client_certificate_goes_along_and_one_of_others_ends_the_handshake(
    certificates: Path, world: World
) -> None:
    bare = b"GET /mcp/resources HTTP/1.1\r\nHost: localhost\r\n"
    async with https_edge(certificates, LINGER, world, client_ca=True) as clients:
        shown = clients.context("client.pem")
        assert (await clients.answer(ASK)).status == 200
        assert (await clients.answer(ASK, shown)).status == 200
        none, der = world.authn.certificates
        assert none == b""
        assert ssl.DER_cert_to_PEM_cert(der) in (certificates / "client.pem").read_text()
        alone = await clients.answer(bare + b"\r\n", shown)
        assert (alone.status, world.authn.asked[-1], world.authn.certificates[-1]) == (401, "", der)
        assert 'error="invalid_token"' in alone.headers["www-authenticate"]
        asked = len(world.authn.asked)
        wrong = await clients.answer(bare + b"Authorization: Basic eDp5\r\n\r\n", shown)
        assert (wrong.status, len(world.authn.asked)) == (401, asked), "no certificate makes up for a bad header"
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await clients.answer(GET, clients.context("stranger.pem"))
    async with https_edge(certificates, LINGER, world) as clients:
        await clients.answer(ASK, clients.context("client.pem"))
        assert world.authn.certificates[-1] == b"", "where none is asked for, none is believed"
