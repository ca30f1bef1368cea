"""The span of an MCP request, by the semantic conventions for MCP and gen_ai."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from services.common.telemetry.trace_context import CURRENT, TraceContext
from services.common.telemetry.tracing import NoSpan, Span, entering, span


def mcp_span(message: Mapping[str, Any], action: str, tools: Container[str], revision: str) -> Span | NoSpan:
    """A span below the HTTP request's; or in the trace that the request's ``_meta`` names, which is what the agent
    itself was doing, with a link to the HTTP request.

    ``action``: from the closed list of methods. ``tools``: those whose name is no text of the caller's.
    """
    method = action.removeprefix("mcp:")
    params = message.get("params") or {}
    tool = params.get("name") if method == "tools/call" else None
    known = tool if isinstance(tool, str) and tool in tools else ""
    name = f"{method} {known}".rstrip()
    attributes: dict[str, str | int | float | bool] = {"mcp.method.name": method, "network.transport": "tcp"}
    if revision:
        attributes["mcp.protocol.version"] = revision[:16]
    if isinstance(number := message.get("id"), int) and not isinstance(number, bool):
        # A text would be the client's own words.
        attributes["jsonrpc.request.id"] = str(number)
    if method == "tools/call":
        attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": known or "other"}
    said = _said(params)
    here = CURRENT.get()
    if said is None or (here is not None and said.span_id == here.span_id):
        return span(name, "server", attributes)
    made = entering(name, said, attributes, trusted=False)
    if here is not None:
        made.link(here)
    return made


def _said(params: Mapping[str, Any]) -> TraceContext | None:
    meta = params.get("_meta")
    text = meta.get("traceparent") if isinstance(meta, dict) else None
    return TraceContext.parse(text) if isinstance(text, str) else None
