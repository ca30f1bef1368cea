"""A session of the real MCP client: `python -m tests.compose.mcp_session MCP_URL CA_FILE KEY_FILE`, JSON on stdout."""

import asyncio
import json
import ssl
import sys
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, ca_file: str, key: str) -> None:
    """Lists the tools, reads and changes."""
    http = httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {key}"},
        verify=ssl.create_default_context(cafile=ca_file),
        timeout=30,
        trust_env=False,
    )
    async with http, Client(streamable_http_client(url, http_client=http)) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        pods = await client.call_tool("list_pods", {"namespace": "default"})
        scaled = await client.call_tool("scale_deployment", {"name": "nginx", "namespace": "default", "replicas": 2})
        answer = {"tools": tools, "pods": pods.structured_content, "scaled": scaled.structured_content}
        print(json.dumps({**answer, "errors": [pods.is_error, scaled.is_error]}))


if __name__ == "__main__":
    URL, CA_FILE, KEY_FILE = sys.argv[1:]
    asyncio.run(main(URL, CA_FILE, Path(KEY_FILE).read_text(encoding="ascii").strip()))
