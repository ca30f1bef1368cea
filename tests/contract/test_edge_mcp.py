"""The edge over real TLS, with the real MCP client of both eras, on fakes of authn, authz, audit and the cluster."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from mcp.shared.exceptions import MCPError

from services.common.errors import Unavailable
from services.common.runtime import StartupError
from services.mcp_core.edge.connections import ConnectionLimits
from services.mcp_core.edge.server import bind, tls_context
from services.mcp_core.model import Result, Scope
from services.mcp_core.tools.base import Invocation, Structured
from tests.fakes.mcp_edge import Served, certificates, served
from tests.unit.mcp_core.edge.fakes import ALICE, BOB

__all__ = ["certificates", "served"]

DEFAULTS = ConnectionLimits()

ERAS = ("2026-07-28", "legacy")


@pytest.mark.req("I2.2", "I2.4", "I6.1", "I6.3")
@pytest.mark.parametrize("era", ERAS)
async def test_a_client_of_each_era_lists_and_calls(served: Served, era: str) -> None:
    async with served.client(era) as client:
        assert client.protocol_version == ("2025-11-25" if era == "legacy" else era)
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == set(served.world.registry)
        assert listed["change"].annotations is not None
        assert listed["change"].annotations.destructive_hint
        assert listed["look"].output_schema is not None
        served.world.log.clear()
        result = await client.call_tool("look", {"namespace": "default"})
    assert not result.is_error
    assert result.structured_content == {"done": ["default"]}
    assert result.content[0].type == "text"
    assert "default" in result.content[0].text
    assert served.world.log == ["authenticate", "check", "execute", "record"], "one authentication a request"
    assert served.world.audit.last.metadata["interface"] == "mcp"


@pytest.mark.req("I2.5")
@pytest.mark.parametrize("era", ERAS)
async def test_every_request_of_a_session_is_recorded(served: Served, era: str) -> None:
    async with served.client(era) as client:
        await client.list_tools()
    actions = [event.action for event in served.world.audit.events]
    assert "mcp:tools/list" in actions
    if era == "legacy":
        assert actions[:2] == ["mcp:initialize", "mcp:notifications/initialized"]
    assert {event.user for event in served.world.audit.events} == {"alice"}
    assert len(served.world.authn.asked) == len(actions)


@pytest.mark.req("I2.4", "I2.5")
@pytest.mark.parametrize("era", ERAS)
async def test_a_hidden_tool_called_directly_is_denied_and_recorded(served: Served, era: str) -> None:
    async with served.client(era, BOB) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["look"]
        result = await client.call_tool("change", {"name": "web", "namespace": "default"})
    assert result.is_error
    assert result.structured_content is None
    event = served.world.audit.last
    assert (event.action, event.result) == ("change", Result.FAILURE)
    assert event.request_id in str(result.content)
    assert "k8s:deployments:scale" in str(result.content)
    assert not served.world.invocations


@pytest.mark.parametrize("era", ERAS)
async def test_bad_arguments_and_unknown_tools_are_error_results(served: Served, era: str) -> None:
    async with served.client(era) as client:
        missing = await client.call_tool("look", {})
        unknown = await client.call_tool("exec", {})
    assert missing.is_error
    assert "namespace" in str(missing.content)
    assert unknown.is_error
    assert [event.result for event in served.world.audit.events[-2:]] == [Result.FAILURE] * 2


@pytest.mark.req("I6.7")
@pytest.mark.parametrize("era", ERAS)
async def test_an_exception_is_a_fixed_sentence_in_both_eras(served: Served, era: str) -> None:
    async def run(invocation: Invocation) -> Structured:
        raise RuntimeError("password=hunter2 in /etc/passwd")

    async def offers(caller: Any) -> Any:
        raise RuntimeError("password=hunter2 in /etc/passwd")

    async with served.client(era) as client:
        await client.list_tools()
        served.world.run = run
        result = await client.call_tool("look", {"namespace": "default"})
        assert result.is_error
        assert "hunter2" not in str(result)
        assert served.world.audit.last.request_id in str(result.content)
        served.world.pipeline.offers = offers  # type: ignore[method-assign]
        with pytest.raises(MCPError) as caught:
            await client.list_tools()
    assert "hunter2" not in str(caught.value)
    assert served.world.audit.last.request_id in str(caught.value)
    assert served.world.audit.last.result is Result.ERROR


@pytest.mark.req("I2.6")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("away", ["authz", "audit"])
async def test_without_authz_or_audit_a_call_is_an_error_and_nothing_is_answered(
    served: Served, era: str, away: str
) -> None:
    async with served.client(era) as client:
        await client.list_tools()
        if away == "audit":
            served.world.audit.fail = lambda event: True
        else:
            served.world.authz.error = Unavailable("The authz service cannot be reached.")
        result = await client.call_tool("change", {"name": "web", "namespace": "default"})
        assert result.is_error
        assert away in str(result.content)
        served.world.audit.fail = lambda event: False
    assert not served.world.invocations


@pytest.mark.req("I2.6")
@pytest.mark.parametrize("era", ERAS)
async def test_a_list_without_a_record_is_withheld(served: Served, era: str) -> None:
    async with served.client(era) as client:
        await client.list_tools()
        served.world.audit.fail = lambda event: True
        with pytest.raises(MCPError):
            await client.list_tools()


@pytest.mark.req("I2.3")
@pytest.mark.parametrize("era", ERAS)
async def test_a_wrong_key_gets_401_before_the_sdk_sees_anything(served: Served, era: str) -> None:
    async with served.http("wrong") as http:
        for headers in ({}, {"mcp-protocol-version": era if era != "legacy" else "2025-11-25"}):
            response = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers=headers)
            assert response.status_code == 401
            assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert served.world.audit.events == []


def modern(method: str, **params: Any) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": meta}}


ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.mark.req("I6.1", "R10")
async def test_policy_decides_on_the_body_whatever_the_headers_say(served: Served) -> None:
    body = modern("tools/call", name="change", arguments={"name": "web", "namespace": "default"})
    async with served.http(BOB) as http:
        lying = {**ACCEPT, "mcp-method": "tools/call", "mcp-name": "look"}
        crossed = await http.post("/mcp", json=body, headers={**lying, "mcp-protocol-version": "2026-07-28"})
        assert crossed.status_code == 400
        old = await http.post("/mcp", json=body, headers={**lying, "mcp-protocol-version": "2025-11-25"})
        assert old.json()["result"]["isError"] is True
    assert [action.permission.verb for action in served.world.authz.checked] == ["scale"]
    assert not served.world.invocations


@pytest.mark.req("I6.1")
async def test_a_2025_header_with_2026_meta_is_answered(served: Served) -> None:
    async with served.http() as http:
        headers = {**ACCEPT, "mcp-protocol-version": "2025-11-25"}
        response = await http.post("/mcp", json=modern("tools/list"), headers=headers)
    assert response.status_code == 200
    assert response.json()["result"]["tools"]


async def test_a_modern_list_is_private_to_its_caller(served: Served) -> None:
    async with served.http() as http:
        headers = {**ACCEPT, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
        result = (await http.post("/mcp", json=modern("tools/list"), headers=headers)).json()["result"]
    assert result["cacheScope"] == "private"
    assert result["resultType"] == "complete"


@pytest.mark.req("I6.1")
async def test_nothing_is_kept_between_requests(served: Served) -> None:
    """Stateless: no session id is given, and one that a client sends means nothing."""
    async with served.http() as http:
        headers = {**ACCEPT, "mcp-session-id": "somebody-elses"}
        response = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, headers=headers)
        assert response.status_code == 200
        assert "mcp-session-id" not in response.headers
        assert (await http.get("/mcp", headers=ACCEPT)).status_code == 405
        assert (await http.delete("/mcp")).status_code == 405


@pytest.mark.req("I6.7")
async def test_the_same_json_rpc_id_of_two_users_at_once_never_crosses(served: Served) -> None:
    served.world.authz.scopes["look"] = Scope(patterns=("default",))
    both = asyncio.Barrier(2)

    async def run(invocation: Invocation) -> Structured:
        await both.wait()
        return {"done": list(invocation.namespaces)}

    served.world.run = run

    async def ask(key: str, namespace: str) -> Any:
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "look", "arguments": {"namespace": namespace}},
        }
        async with served.http(key) as http:
            return (await http.post("/mcp", json=body, headers=ACCEPT)).json()["result"]["structuredContent"]

    for _ in range(5):
        hers, his = await asyncio.gather(ask(ALICE, "prod"), ask(BOB, "default"))
        assert hers == {"done": ["prod"]}
        assert his == {"done": ["default"]}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_from_1_2_with_aead(served: Served, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(served.ca_file))
    context.minimum_version = context.maximum_version = version
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context, server_hostname="localhost")
    cipher = writer.get_extra_info("cipher")
    writer.close()
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


async def test_older_tls_cbc_suites_and_plain_http_are_refused(served: Served) -> None:
    old = ssl.create_default_context(cafile=str(served.ca_file))
    cbc = ssl.create_default_context(cafile=str(served.ca_file))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    cbc.maximum_version = ssl.TLSVersion.TLSv1_2
    cbc.set_ciphers("ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
    for context in (old, cbc):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", served.port, ssl=context, server_hostname="localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" not in await reader.read()
    writer.close()


async def raw(served: Served, request: bytes) -> bytes:
    context = ssl.create_default_context(cafile=str(served.ca_file))
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context, server_hostname="localhost")
    writer.write(request)
    await writer.drain()
    answer = await reader.read(65536)
    writer.close()
    return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"\x00" * 1000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400(served: Served, request_bytes: bytes) -> None:
    assert (await raw(served, request_bytes)).startswith(b"HTTP/1.1 400")


async def test_headers_are_bounded(served: Served) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    assert (await raw(served, request)).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


async def test_an_absolute_target_does_not_smuggle_a_host(served: Served) -> None:
    answer = await raw(served, b"GET https://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 421")


@pytest.mark.req("I2.11")
def test_a_port_in_use_is_named_with_the_option_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"port {port} .*in use.*--port"):
            bind(f"127.0.0.1:{port}")


@pytest.mark.req("I2.11")
def test_a_key_of_another_certificate_is_named(certificates: Path, tmp_path: Path) -> None:
    other = trustme.CA().issue_cert("localhost")
    other.private_key_pem.write_to_path(tmp_path / "tls.key")
    with pytest.raises(StartupError, match="kubegate up"):
        tls_context(certificates / "tls.crt", tmp_path / "tls.key")
