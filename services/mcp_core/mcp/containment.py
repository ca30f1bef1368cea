"""Outermost around every handler: what fails is noted, and unexpected errors say nothing of themselves.

The SDK would send 2025 clients ``str(error)``; here an exception becomes a fixed sentence in both eras.
"""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from services.common.errors import DomainError, Internal, InvalidArgument
from services.common.log import get_logger
from services.mcp_core.mcp.exchange import Exchange, exchange_of, sentence
from services.mcp_core.mcp.messages import FAULTS
from services.mcp_core.model import Result
from services.mcp_core.pipeline import Pipeline, result_of

log = get_logger("mcp")


def containing(pipeline: Pipeline) -> ServerMiddleware[Any]:
    """A middleware of the SDK's, which raises only what has the protocol's own text, or a sentence of ours.

    Where the answer is a stream, it also writes the record that the pipeline has not: before anything is sent.
    """

    async def contain(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        exchange = exchange_of(ctx)
        exchange.handled = True
        try:
            result = await _contained(ctx, call_next)
        except MCPError:
            await note(exchange)
            raise
        await note(exchange)
        return result

    async def note(exchange: Exchange) -> None:
        if exchange.streamed and not exchange.recorded:
            exchange.recorded = True
            try:
                await pipeline.note(
                    exchange.caller, exchange.action, exchange.result, exchange.error, exchange.violation
                )
            except DomainError as error:
                raise MCPError(code=types.INTERNAL_ERROR, message=sentence(error, exchange)) from error

    return contain


async def _contained(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    exchange = exchange_of(ctx)
    try:
        return await call_next(ctx)
    except MCPError as error:
        exchange.result, exchange.error = Result.FAILURE, f"JSON-RPC error {error.error.code}"
        if isinstance(error.error.data, dict) and error.error.data.get("reason") == "invalid_request_state":
            # Forged, altered, of another's or another call: the SDK's boundary tells only its log which (R16).
            exchange.error, exchange.violation = "requestState refused", "request_state_refused"
        raise
    except ValidationError:
        exchange.result, exchange.error = Result.FAILURE, f"JSON-RPC error {types.INVALID_PARAMS}"
        raise MCPError(code=types.INVALID_PARAMS, message=FAULTS[types.INVALID_PARAMS]) from None
    except DomainError as error:
        exchange.failed(error)
        failure = error
    except Exception as error:
        log.error("unexpected error", request_id=exchange.caller.context.request_id, exc_info=error)
        failure = Internal()
    exchange.result, exchange.error = result_of(failure), failure.public_message
    code = types.INVALID_PARAMS if isinstance(failure, InvalidArgument) else types.INTERNAL_ERROR
    raise MCPError(code=code, message=sentence(failure, exchange))
