"""tools/list and tools/call: the pipeline's offers and answers in MCP's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from services.common.errors import DomainError
from services.mcp_core.mcp.exchange import exchange_of, sentence
from services.mcp_core.pipeline import Pipeline
from services.mcp_core.tools.base import Tool


class ToolHandlers:
    """Handlers of the SDK's server. The pipeline records what comes here, also when it raises."""

    def __init__(self, pipeline: Pipeline, registry: Mapping[str, Tool]) -> None:
        self._pipeline = pipeline
        self._registry = registry
        self._listed = {name: _listed(tool) for name, tool in registry.items()}

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """Of a tool, for the check of Mcp-Param-* headers. Without it the SDK runs tools/list before every call."""
        tool = self._registry.get(name)
        return tool.input_schema if tool is not None else None

    async def list(
        self, ctx: ServerRequestContext[Any, Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """What the caller may use somewhere."""
        exchange = exchange_of(ctx)
        exchange.recorded = True
        offers = await self._pipeline.list_offers(exchange.caller, exchange.action)
        return types.ListToolsResult(tools=[self._listed[offer.tool.name] for offer in offers])

    async def call(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """One call; denials and other errors of ours are answers that the model can read."""
        exchange = exchange_of(ctx)
        exchange.recorded = True
        try:
            answer = await self._pipeline.call(exchange.caller, params.name, params.arguments or {})
        except DomainError as error:
            return types.CallToolResult(content=[types.TextContent(text=sentence(error, exchange))], is_error=True)
        return types.CallToolResult(
            content=[types.TextContent(text=answer.text)], structured_content=dict(answer.structured)
        )


def _listed(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        output_schema=dict(tool.output_schema),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=False,
        ),
    )
