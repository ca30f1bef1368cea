"""Outermost around every handler: what fails is noted, and unexpected errors say nothing of themselves.

The SDK would send 2025 clients ``str(error)``; here an exception becomes a fixed sentence in both eras.
"""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from services.common.errors import DomainError, Internal
from services.common.log import get_logger
from services.mcp_core.mcp.exchange import exchange_of, sentence
from services.mcp_core.model import Result
from services.mcp_core.pipeline import result_of

log = get_logger("mcp")


async def contain(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """A middleware of the SDK's.

    Raises:
        MCPError, ValidationError: whose text is the protocol's own, or a sentence of ours.
    """
    exchange = exchange_of(ctx)
    try:
        return await call_next(ctx)
    except MCPError as error:
        exchange.result, exchange.error = Result.FAILURE, f"JSON-RPC error {error.error.code}"
        raise
    except ValidationError:
        exchange.result, exchange.error = Result.FAILURE, f"JSON-RPC error {types.INVALID_PARAMS}"
        raise
    except DomainError as error:
        failure = error
    except Exception as error:
        log.error("unexpected error", request_id=exchange.caller.context.request_id, exc_info=error)
        failure = Internal()
    exchange.result, exchange.error = result_of(failure), failure.public_message
    raise MCPError(code=types.INTERNAL_ERROR, message=sentence(failure, exchange))
