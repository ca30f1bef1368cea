"""Calls of tools on behalf of a prompt, a resource or a completion: the same pipeline, errors as JSON-RPC has them."""

from __future__ import annotations

from collections.abc import Sequence

import mcp_types as types
from mcp.shared.exceptions import MCPError

from services.common.errors import DomainError, InvalidArgument, NotFound, PermissionDenied
from services.mcp_core.mcp.exchange import Exchange, sentence
from services.mcp_core.mcp.pack import Call
from services.mcp_core.model import ALONE, Dialogue, ToolAnswer
from services.mcp_core.pipeline import Pipeline

RESOURCE_NOT_FOUND = -32002
"""What 2025 revisions say where 2026-07-28 says INVALID_PARAMS."""


class Reader:
    """Calls tools; each call is decided and recorded as such."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    async def read(self, exchange: Exchange, calls: Sequence[Call], dialogue: Dialogue = ALONE) -> list[ToolAnswer]:
        """The answers, in order; the first error ends it.

        Raises:
            DomainError: of the call that failed. MCPError: the request was cancelled.
        """
        answers = []
        for tool, arguments in calls:
            exchange.recorded = True
            answers.append(await exchange.run(self.pipeline.call(exchange.caller, tool, arguments, dialogue=dialogue)))
        return answers


def refusal(error: DomainError, exchange: Exchange, uri: str = "") -> MCPError:
    """The JSON-RPC error for a read that failed; ``uri``: of the resource."""
    code = types.INTERNAL_ERROR
    if isinstance(error, InvalidArgument | PermissionDenied):
        code = types.INVALID_PARAMS
    elif isinstance(error, NotFound):
        code = types.INVALID_PARAMS if exchange.modern or not uri else RESOURCE_NOT_FOUND
    return MCPError(code=code, message=sentence(error, exchange), data={"uri": uri} if uri else None)
