"""Which bodies are JSON-RPC messages of MCP, and how each is named in the record."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from services.mcp_core.edge.wire import Request, Response
from services.mcp_core.json_text import dump_json

ACTIONS = {
    method: f"mcp:{method}"
    for method in (
        "completion/complete",
        "elicitation/create",
        "initialize",
        "logging/setLevel",
        "notifications/cancelled",
        "notifications/initialized",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "tools/call",
        "tools/list",
    )
}
"""Methods and the action in the record of a request that is no tool call: never a text of the caller's, and never
the name of a tool."""

INVALID = "mcp:invalid"
"""The action in the record of everything else."""

FAULTS = {
    types.PARSE_ERROR: "The body is not valid JSON in UTF-8.",
    types.INVALID_REQUEST: "The request is not acceptable here.",
    types.INVALID_PARAMS: "The parameters of the request are not valid.",
}
"""What is said where the SDK's sentence for an older client would repeat what its parser saw."""


def is_modern(request: Request) -> bool:
    """Whether the SDK will serve it as 2026-07-28 or newer: by the header alone."""
    version = request.text(b"mcp-protocol-version")
    return bool(version) and version not in HANDSHAKE_PROTOCOL_VERSIONS


def is_message(message: Any) -> bool:
    """Whether it is one JSON-RPC 2.0 request or notification: no batch, no response."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return False
    number = message.get("id", 0)
    params = message.get("params", {})
    return isinstance(number, str | int) and not isinstance(number, bool) and isinstance(params, dict)


def takes_events(request: Request) -> bool:
    """Whether the client takes a stream of events as the answer."""
    return b"text/event-stream" in b",".join(request.all(b"accept"))


def jsonrpc_error(status: int, code: int, text: str, number: str | int | None = None) -> Response:
    """An error that no handler of the SDK's has made."""
    return Response(status, dump_json({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}}))
