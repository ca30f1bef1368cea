"""Which bodies are JSON-RPC messages of MCP, and how each is named in the record."""

from __future__ import annotations

from typing import Any

from services.mcp_core.edge.wire import Response, dump_json

ACTIONS = {
    method: f"mcp:{method}"
    for method in (
        "initialize",
        "notifications/cancelled",
        "notifications/initialized",
        "ping",
        "server/discover",
        "tools/call",
        "tools/list",
    )
}
"""Methods and the action in the record of a request that is no tool call: never a text of the caller's, and never
the name of a tool."""

INVALID = "mcp:invalid"
"""The action in the record of everything else."""


def is_message(message: Any) -> bool:
    """Whether it is one JSON-RPC 2.0 request or notification: no batch, no response (we ask clients nothing)."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return False
    number = message.get("id", 0)
    params = message.get("params", {})
    return isinstance(number, str | int) and not isinstance(number, bool) and isinstance(params, dict)


def jsonrpc_error(status: int, code: int, text: str) -> Response:
    """An answer to what cannot be told to be a request."""
    return Response(status, dump_json({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}))
