"""The edge as somebody sees it who writes the bytes himself: nothing is read in two ways, everything is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.mcp_core.edge.connections import ConnectionLimits
from services.mcp_core.edge.guard import MAX_HEADER_BYTES
from services.mcp_core.edge.wire import SECURITY_HEADERS
from services.mcp_core.model import Kind, Result
from tests.fakes.https_edge import (
    FOREVER,
    GET,
    PATIENCE,
    Answer,
    EdgeClients,
    https_edge,
    make_certificates,
    read_answer,
)
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, World

LOOK = b'{"namespace":"default"}'
LINGER: ConnectionLimits = replace(FOREVER, linger=0.2)


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


def request(
    target: str, body: bytes = b"", *headers: str, method: str = "POST", host: str = "localhost", key: str = ALICE
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {key}", *headers]
    if body and not any("transfer-encoding" in line.lower() for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def assert_whole(answer: Answer) -> None:
    """What holds for every answer, whoever made it."""
    for name, value in SECURITY_HEADERS:
        assert answer.headers[name.decode()] == value.decode()
    assert answer.headers["x-request-id"]
    assert "server" not in answer.headers
    assert b"Traceback" not in answer.body
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = json.loads(answer.body)
        assert (problem["status"], problem["request_id"]) == (answer.status, answer.headers["x-request-id"])


HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
MALFORMED = {
    "noise": (bytes(range(128, 256)) * 10 + b"\r\n\r\n", 400),
    "a TLS record within TLS": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "no version": (b"GET /healthz\r\n\r\n", 400),
    "white space before the colon": (HEAD + b"X : 1\r\n\r\n", 400),
    "white space before the first header": (b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "a header without colon": (HEAD + b"nonsense\r\n\r\n", 400),
    "a control character in a value": (HEAD + b"X: a\x00b\r\n\r\n", 400),
    "a carriage return alone": (HEAD + b"X: a\rY: b\r\n\r\n", 400),
    "no Host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (HEAD + b"Host: localhost\r\n\r\n", 400),
    "two lengths": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a length below zero": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
    "a length in words": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e1\r\n\r\n", 400),
    "an unknown coding": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "a head without end": (HEAD + b"X: " + b"a" * (MAX_HEADER_BYTES + 1), 431),
}


@pytest.mark.req("I6.25", "I6.30")
@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_request_is_answered_and_counted(
    clients: EdgeClients, world: World, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent, status = MALFORMED[name]
    reader, writer = await clients.open()
    writer.write(sent)
    answer = await read_answer(reader)
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert_whole(answer)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b"", "and nothing after it"
    await world.pipeline.drain(PATIENCE)
    event = world.audit.last
    assert (event.kind, event.result, event.error) == (Kind.MCP_REQUEST, Result.FAILURE, "malformed HTTP")
    assert event.request_id == answer.headers["x-request-id"]
    assert event.source.address == "127.0.0.1"
    assert not caplog.records, "a flood of them is no flood of the log"


UNSERVED = {
    "another path": (request("/nothing", method="GET"), 404, "no such path"),
    "a path below one": (request("/mcp/", LOOK), 404, "no such path"),
    "an empty segment": (request("//mcp/tools/look", LOOK), 404, "no such path"),
    "up and down": (request("/mcp/../healthz", method="GET"), 404, "no such path"),
    "up and down, escaped": (request("/mcp/%2e%2e/healthz", method="GET"), 404, "no such path"),
    "another method": (request("/mcp/tools/look", method="PUT"), 405, "no such method"),
    "TRACE": (request("/healthz", method="TRACE"), 405, "no such method"),
    "CONNECT": (request("localhost:443", method="CONNECT"), 404, "no such path"),
    "asterisk": (request("*", method="OPTIONS"), 404, "no such path"),
    "GET with a body": (request("/healthz", b"a", method="GET"), 400, "body without use"),
    "GET with a chunked body": (
        request("/mcp/resources", b"0\r\n\r\n", "Transfer-Encoding: chunked", method="GET"),
        400,
        "body without use",
    ),
    "another version": (GET.replace(b"1.1", b"2.0"), 505, "unknown HTTP version"),
    "long headers": (request("/healthz", b"", *["X: " + "a" * 9000] * 4, method="GET"), 431, "headers too large"),
}


@pytest.mark.req("I6.25", "I6.30")
@pytest.mark.parametrize("name", UNSERVED)
async def test_what_is_served_nowhere_is_refused_and_counted(clients: EdgeClients, world: World, name: str) -> None:
    sent, status, reason = UNSERVED[name]
    answer = await clients.answer(sent)
    assert answer.status == status
    assert_whole(answer)
    assert ("allow" in answer.headers) is (status == 405)
    event = world.audit.last
    assert (event.kind, event.result, event.error) == (Kind.MCP_REQUEST, Result.FAILURE, reason)
    assert event.metadata["path"]
    assert world.log == ["folded"], "nobody was asked, nothing was executed"
    assert ALICE not in str(world.audit.events)


VIOLATIONS = {
    "two ways to say the length": (
        request("/mcp/tools/look", b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"),
        400,
        "ambiguous length of a body",
    ),
    "another host": (request("/healthz", method="GET", host="evil.example"), 421, "foreign host"),
    "another host as target": (request("https://evil.example/healthz", method="GET"), 421, "foreign host"),
    "a target and a Host that differ": (
        request("https://127.0.0.1/healthz", method="GET", host="localhost"),
        421,
        "foreign host",
    ),
    "HTTP/1.0 without Host": (b"GET /healthz HTTP/1.0\r\n\r\n", 421, "foreign host"),
    "another origin": (
        request("/mcp/resources", b"", "Origin: https://evil.example", method="GET"),
        403,
        "foreign origin",
    ),
    "two origins": (
        request("/mcp/resources", b"", "Origin: https://localhost", "Origin: https://evil.example", method="GET"),
        403,
        "foreign origin",
    ),
}


@pytest.mark.req("I6.25", "I6.26")
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_request_for_others_or_of_two_readings_is_a_violation(
    clients: EdgeClients, world: World, name: str
) -> None:
    sent, status, reason = VIOLATIONS[name]
    answer = await clients.answer(sent)
    assert answer.status == status
    assert_whole(answer)
    assert (world.audit.last.kind, world.audit.last.error) == (Kind.SECURITY_VIOLATION, reason)
    assert world.log == ["folded"]


@pytest.mark.req("I6.30")
async def test_after_a_length_of_two_readings_the_connection_is_over(clients: EdgeClients, world: World) -> None:
    smuggled = request("/mcp/tools/look", LOOK)
    first = request("/mcp/tools/look", b"0\r\n\r\n" + smuggled, "Content-Length: 5", "Transfer-Encoding: chunked")
    reader, writer = await clients.open()
    writer.write(first)
    assert (await read_answer(reader)).headers["connection"] == "close"
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    assert not world.invocations


@pytest.mark.req("I6.30")
async def test_an_absolute_target_of_ours_is_served(clients: EdgeClients) -> None:
    target = f"https://localhost:{clients.port}/mcp/tools/look"
    answer = await clients.answer(request(target, LOOK, host=f"localhost:{clients.port}"))
    assert (answer.status, json.loads(answer.body)) == (200, {"done": ["default"]})
    assert (await clients.answer(request("http://localhost/healthz", method="GET"))).status == 404


@pytest.mark.req("I6.30")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("%2e%2e", 403),
        ("..%2f..%2fhealthz", 403),
        ("look%00", 403),
        ("look%20", 403),
        ("look/", 403),
        ("LOOK", 403),
        ("look%3fx", 403),
        ("%e2%80%ae", 403),
        ("%ff%fe", 403),
        ("l%6f%6fk", 200),
    ],
)
async def test_the_name_of_a_tool_is_taken_as_it_is_written(
    clients: EdgeClients, world: World, name: str, status: int
) -> None:
    """A letter may be escaped (RFC 3986, 6.2.2.2); everything else names no tool, which is denied and recorded."""
    answer = await clients.answer(request(f"/mcp/tools/{name}", LOOK))
    assert answer.status == status
    assert_whole(answer)
    assert len(world.invocations) == (status == 200)
    assert world.log[-1] == "record"


@pytest.mark.req("I6.30")
async def test_pipelined_requests_keep_their_callers_apart_and_in_order(clients: EdgeClients, world: World) -> None:
    keys = [ALICE, BOB, "wrong", ALICE]
    sent = b"".join(request("/mcp/resources", method="GET", key=key) for key in keys)
    answers = await clients.answers(sent, len(keys))
    assert [answer.status for answer in answers] == [200, 200, 401, 200]
    tools = [len(json.loads(answer.body)["tools"]) for answer in answers if answer.status == 200]
    assert tools[0] == tools[2] > tools[1] == 1
    assert world.authn.asked == keys


@pytest.mark.req("I6.30")
async def test_a_body_that_looks_like_a_request_is_a_body(clients: EdgeClients, world: World) -> None:
    inner = request("/mcp/tools/look", LOOK)
    answers = await clients.answers(request("/mcp/tools/look", inner) + GET, 2)
    assert [answer.status for answer in answers] == [400, 200]
    assert not world.invocations


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.req("I6.30")
async def test_chunked_bodies(clients: EdgeClients, world: World) -> None:
    whole = await clients.answer(request("/mcp/tools/look", chunked(LOOK[:5], LOOK[5:]), CHUNKED))
    assert whole.status == 200
    trailer = chunked(LOOK, end=b"0\r\nAuthorization: Bearer %s\r\n\r\n" % ALICE.encode())
    assert (await clients.answer(request("/mcp/tools/look", trailer, CHUNKED, key="wrong"))).status == 401
    large = await clients.answer(request("/mcp/tools/look", chunked(*[b" " * 4096] * 17), CHUNKED))
    assert large.status == 413
    done = len(world.invocations)
    for broken in (b"zz\r\n", b"5\r\nabcdefgh\r\n", b"-1\r\n", b"5;" + b"x" * (MAX_HEADER_BYTES + 1)):
        answer = await clients.answer(request("/mcp/tools/look", broken, CHUNKED))
        assert answer.status in (400, 431)
        assert_whole(answer)
    assert len(world.invocations) == done
    assert_whole(large)


@pytest.mark.req("I6.30", "I3.14")
@pytest.mark.parametrize("parameter", ["access_token", "Access_Token", "api_key", "apikey", "token", "authorization"])
async def test_a_credential_in_the_url_is_refused_even_beside_a_header(
    clients: EdgeClients, world: World, parameter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in (ALICE, BOB):
        answer = await clients.answer(request(f"/mcp/resources?x=1&{parameter}={key}", method="GET"))
        assert answer.status == 401
        assert "error=" not in answer.headers["www-authenticate"]
        assert "never in the URL" in json.loads(answer.body)["detail"]
    assert world.authn.asked == []
    assert world.audit.last.error == "credential in the URL"
    output = capsys.readouterr()
    for key in (ALICE, BOB):
        assert key not in str(world.audit.events) + output.out + output.err


@pytest.mark.req("I6.30")
async def test_two_credentials_are_none(clients: EdgeClients, world: World) -> None:
    answer = await clients.answer(request("/mcp/resources", b"", f"authorization: ApiKey {ALICE}", method="GET"))
    assert answer.status == 401
    folded = await clients.answer(request("/mcp/resources", b"", f" {ALICE}", method="GET"))
    assert folded.status == 401, "a folded header is one value that is no credential"
    assert world.authn.asked == []


@pytest.mark.req("I6.26", "I6.25")
@pytest.mark.parametrize("body", [b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b'{"a":1,"a":2}'])
async def test_json_that_is_too_deep_or_says_something_twice_is_400(
    clients: EdgeClients, world: World, body: bytes
) -> None:
    answer = await clients.answer(request("/mcp/tools/look", body))
    assert answer.status == 400
    assert_whole(answer)
    mcp = await clients.answer(request("/mcp", body, "Content-Type: application/json", "Accept: application/json"))
    assert mcp.status == 400
    assert not world.invocations


ROUTES = [
    *(("GET", path) for path in ("/mcp/resources", "/.well-known/jwks.json", "/healthz", "/readyz", "/openapi.json")),
    *(("GET", f"/.well-known/oauth-protected-resource{path}") for path in ("", "/mcp")),
    *(("POST", path) for path in ("/mcp", "/mcp/tools/look", "/mcp/tools/change", "/auth/token", "/nothing")),
]
GARBAGE = {
    "noise": bytes(range(256)) * 400,
    "deep": b"[" * 100_000,
    "text": b"a" * 100_000,
    "odd json": b'{"namespace":' + b'"\\ud800"' + b"," * 100_000,
    "digits": b"9" * 100_000,
}


@pytest.mark.req("I6.29")
@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_hundred_kilobytes_of_garbage_on_every_route(
    certificates: Path, garbage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(burst=1000, max_body=200 * 1024)
    async with https_edge(certificates, LINGER, world) as clients:
        for method, path in ROUTES:
            for key in (ALICE, "wrong"):
                for media_type in ("application/json", "text/plain"):
                    sent = request(path, GARBAGE[garbage], f"Content-Type: {media_type}", method=method, key=key)
                    answer = await clients.answer(sent)
                    assert 400 <= answer.status < 500, (method, path, answer)
                    for name, value in SECURITY_HEADERS:
                        assert answer.headers[name.decode()] == value.decode()
                    assert b"Traceback" not in answer.body
                    assert len(answer.body) < 2048
        raw = await clients.answer(GARBAGE[garbage] + b"\r\n\r\n")
        assert 400 <= raw.status < 500
        assert (await clients.answer(GET)).status == 200
    assert not world.invocations
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.req("I6.27", "R25")
async def test_fifty_slow_clients_leave_a_fast_one_its_turns(certificates: Path) -> None:
    """Each slow one sends a byte of a head, of a body, or takes a byte of its answer, for every answer of the fast."""
    world = World(burst=1000)
    async with https_edge(certificates, replace(FOREVER, per_source=128), world) as clients:
        heads = [await clients.open() for _ in range(20)]
        bodies = [await clients.open() for _ in range(20)]
        takers = [await clients.open() for _ in range(10)]
        for _, writer in bodies:
            writer.write(request("/mcp/tools/look", b"", "Content-Length: 1000"))
        for _, writer in takers:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        reader, fast = await clients.open("127.0.0.2")
        for turn in range(50):
            for _, writer in heads:
                writer.write((b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100)[turn : turn + 1])
            for _, writer in bodies:
                writer.write(b" ")
            fast.write(request("/mcp/tools/look", LOOK))
            assert (await read_answer(reader)).status == 200
        assert len(world.invocations) == 50
        for _, writer in [*heads, *bodies, *takers]:
            assert not writer.transport.is_closing(), "no slow one was ended to get there"
