"""tools/list and tools/call: the pipeline's offers and answers in MCP's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from services.common.errors import DomainError
from services.mcp_core.confirmation import ConfirmationNeeded, Way
from services.mcp_core.errors import InputRequired
from services.mcp_core.mcp.confirming import asking_of, asking_older, handle, round_trip
from services.mcp_core.mcp.dialogue import ask, askable, dialogue_of
from services.mcp_core.mcp.exchange import exchange_of, sentence
from services.mcp_core.mcp.listed import listed
from services.mcp_core.mcp.pages import page
from services.mcp_core.model import ToolAnswer
from services.mcp_core.pipeline import Pipeline
from services.mcp_core.tools.base import Tool


class ToolHandlers:
    """Handlers of the SDK's server. The pipeline records what comes here, also when it raises."""

    def __init__(self, pipeline: Pipeline, registry: Mapping[str, Tool]) -> None:
        self._pipeline = pipeline
        self._registry = registry
        self._listed = {name: listed(tool) for name, tool in registry.items()}

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
        shown, cursor = page(offers, lambda offer: offer.tool.name, params.cursor if params else None)
        return types.ListToolsResult(tools=[self._listed[offer.tool.name] for offer in shown], next_cursor=cursor)

    async def call(
        self, ctx: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """One call; denials and other errors of ours are answers that the model can read."""
        exchange = exchange_of(ctx)
        dialogue = dialogue_of(ctx, exchange, params)
        if exchange.modern:
            asking = asking_of(dialogue, ctx.session.client_capabilities)
        else:
            asking = asking_older(exchange.can)
        exchange.recorded = True
        try:
            answer = await exchange.run(
                self._pipeline.call(exchange.caller, params.name, params.arguments or {}, asking, dialogue)
            )
        except ConfirmationNeeded as needed:
            if needed.way is Way.STATE:
                return ask(round_trip(needed), exchange, dialogue.can)
            if needed.way is Way.ELICIT:
                exchange.question = needed
            return failed(handle(needed))
        except InputRequired as needed:
            if exchange.modern:
                return ask(needed, exchange, dialogue.can)
            if askable(needed, exchange.can):
                exchange.question = needed
            return failed(sentence(needed, exchange))
        except DomainError as error:
            exchange.failed(error)
            return failed(sentence(error, exchange))
        return shown(answer)


def shown(answer: ToolAnswer) -> types.CallToolResult:
    """An answer in MCP's words."""
    content = answer.blocks or ({"type": "text", "text": answer.text},)
    return types.CallToolResult.model_validate(
        {"content": content, "structuredContent": dict(answer.structured)}, by_name=False
    )


def failed(text: str) -> types.CallToolResult:
    """An error that the model can read."""
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
