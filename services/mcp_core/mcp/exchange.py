"""One MCP request while the SDK serves it: who asks, and what will be on record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp.server.context import ServerRequestContext

from services.common.errors import DomainError
from services.mcp_core.mcp.messages import INVALID
from services.mcp_core.model import Caller, Result

STATE = "kubegate.exchange"
"""Key of the Exchange in the scope's state."""


@dataclass(slots=True)
class Exchange:
    """One HTTP request. ``recorded``: the pipeline has written its record, or will whatever happens."""

    caller: Caller
    action: str = INVALID
    recorded: bool = False
    result: Result = Result.SUCCESS
    error: str = ""


def exchange_of(ctx: ServerRequestContext[Any, Any]) -> Exchange:
    """The exchange of the request that a handler serves: by the request itself, never by an id of the client's."""
    request: Any = ctx.request
    exchange: Exchange = request.scope["state"][STATE]
    return exchange


def sentence(error: DomainError, exchange: Exchange) -> str:
    """What the caller is told of an error."""
    return f"{error.public_message} (request id {exchange.caller.context.request_id})"
