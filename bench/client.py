"""A keep-alive HTTP/1.1 client that costs little, so that the bench measures the server.

It sends prepared bytes and reads a response with Content-Length; that is all that it can do.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, Self


class BadAnswer(Exception):
    """The server answered something else than the bench may count."""


class Connection:
    """One connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None) -> Self:
        """Connects to a server on this machine; without TLS only to one that knows none."""
        name = "localhost" if tls is not None else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name, limit=2**24))

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the response.

        Raises:
            BadAnswer: the response has neither Content-Length nor chunks.
        """
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = head.lower()
        start = fields.find(b"\r\ncontent-length:")
        if start < 0 and b"transfer-encoding: chunked" in fields:
            return int(head[9:12]), await self._chunks()
        if start < 0:
            raise BadAnswer(head.decode("latin-1"))
        length = int(fields[start + 17 : fields.index(b"\r\n", start + 2)])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return body

    async def close(self) -> None:
        """Closes the connection."""
        self._writer.close()


def request_bytes(port: int, path: str, key: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    """A whole POST, ready to be sent again and again."""
    content = json.dumps(body, separators=(",", ":")).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: localhost:{port}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def tool_call(port: int, key: str, tool: str, arguments: Mapping[str, Any]) -> bytes:
    """tools/call as a client of the 2026-07-28 revision sends it."""
    return mcp_request(port, key, "tools/call", {"name": tool, "arguments": dict(arguments)})


def mcp_request(port: int, key: str, method: str, params: Mapping[str, Any]) -> bytes:
    """A request as a client of the 2026-07-28 revision sends it."""
    version = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "kubegate-bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {"MCP-Protocol-Version": version, "Mcp-Method": method}
    if "name" in params:
        headers["Mcp-Name"] = str(params["name"])
    return request_bytes(port, "/mcp", key, body, headers)
