"""prompts/list and prompts/get, over the prompts of the pack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from services.common.errors import DomainError, InvalidArgument
from services.mcp_core.errors import InputRequired
from services.mcp_core.journal import bounded
from services.mcp_core.mcp.dialogue import ask, dialogue_of
from services.mcp_core.mcp.exchange import exchange_of
from services.mcp_core.mcp.pack import Pack, Prompt
from services.mcp_core.mcp.pages import page
from services.mcp_core.mcp.reading import Reader, refusal

Context = ServerRequestContext[Any, Any]


class PromptHandlers:
    """Handlers of the SDK's server."""

    def __init__(self, reader: Reader, pack: Pack) -> None:
        self._reader = reader
        self._prompts = dict(sorted(pack.prompts.items()))

    async def list(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
        """The prompts whose tools the caller is offered."""
        exchange = exchange_of(ctx)
        exchange.recorded = True
        offers = await self._reader.pipeline.list_offers(exchange.caller, exchange.action)
        names = {offer.tool.name for offer in offers}
        offered = [prompt for prompt in self._prompts.values() if names.issuperset(prompt.tools)]
        shown, cursor = page(offered, lambda prompt: prompt.name, params.cursor if params is not None else None)
        return types.ListPromptsResult.model_validate(
            {"prompts": [_listed(prompt) for prompt in shown], "nextCursor": cursor}, by_name=False
        )

    async def get(
        self, ctx: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        """The messages of one prompt, after the calls of its tools."""
        exchange = exchange_of(ctx)
        dialogue = dialogue_of(ctx, exchange, params)
        try:
            prompt = self._prompts.get(params.name)
            if prompt is None:
                raise InvalidArgument(
                    f"There is no prompt {bounded(params.name, 64)!r}; prompts/list shows those there are."
                )
            arguments = _checked(prompt, params.arguments or {})
            answers = await self._reader.read(exchange, prompt.calls(arguments), dialogue)
        except InputRequired as needed:
            return ask(needed, exchange, dialogue.can)
        except DomainError as error:
            raise refusal(error, exchange) from error
        return types.GetPromptResult.model_validate(
            {"description": prompt.description, "messages": prompt.messages(arguments, answers)}, by_name=False
        )


def _checked(prompt: Prompt, given: Mapping[str, str]) -> Mapping[str, str]:
    known = {argument.name: argument for argument in prompt.arguments}
    if unknown := next((name for name in given if name not in known), None):
        raise InvalidArgument(f"Unknown argument `{bounded(unknown, 64)}`; known: {', '.join(known) or 'none'}.")
    for argument in prompt.arguments:
        if argument.required and not given.get(argument.name):
            raise InvalidArgument(f"Argument `{argument.name}` is required.")
    return given


def _listed(prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "title": prompt.title,
        "description": prompt.description,
        "arguments": [
            {"name": argument.name, "description": argument.description, "required": argument.required}
            for argument in prompt.arguments
        ],
    }
