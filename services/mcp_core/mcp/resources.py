"""resources/list, resources/templates/list and resources/read, over the sources of the pack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from services.common.errors import DomainError, NotFound, PermissionDenied
from services.mcp_core.errors import InputRequired
from services.mcp_core.mcp.dialogue import ask, dialogue_of
from services.mcp_core.mcp.exchange import Exchange, exchange_of
from services.mcp_core.mcp.pack import Listing, Pack, ResourceSource
from services.mcp_core.mcp.pages import page
from services.mcp_core.mcp.reading import Reader, refusal

Context = ServerRequestContext[Any, Any]


class ResourceHandlers:
    """Handlers of the SDK's server."""

    def __init__(self, reader: Reader, pack: Pack) -> None:
        self._reader = reader
        self._sources = pack.resources

    async def list(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        """The single resources, and those that the sources list, as far as the caller may see them."""
        exchange = exchange_of(ctx)
        found: list[dict[str, Any]] = []
        tools = await self._offered(exchange)
        for source in self._sources:
            if source.tool in tools and not source.is_template:
                found.append({"uri": source.template, **_described(source)})
            if source.tool in tools and source.listing is not None and source.listing.tool in tools:
                found += await self._listed(exchange, source.listing)
        shown, cursor = page(
            sorted(found, key=lambda each: str(each["uri"])), lambda each: str(each["uri"]), _cursor(params)
        )
        return types.ListResourcesResult.model_validate({"resources": shown, "nextCursor": cursor}, by_name=False)

    async def templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """The shapes of URI that the caller may read somewhere."""
        tools = await self._offered(exchange_of(ctx))
        offered = [source for source in self._sources if source.is_template and source.tool in tools]
        shown, cursor = page(
            sorted(offered, key=lambda source: source.template), lambda source: source.template, _cursor(params)
        )
        templates = [{"uriTemplate": source.template, **_described(source)} for source in shown]
        return types.ListResourceTemplatesResult.model_validate(
            {"resourceTemplates": templates, "nextCursor": cursor}, by_name=False
        )

    async def read(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult | types.InputRequiredResult:
        """One resource, by a call of its source's tool."""
        exchange = exchange_of(ctx)
        dialogue = dialogue_of(ctx, exchange, params)
        try:
            for source in self._sources:
                arguments = source.call(params.uri)
                if arguments is not None:
                    [answer] = await self._reader.read(exchange, [(source.tool, arguments)], dialogue)
                    contents = source.contents(params.uri, answer)
                    return types.ReadResourceResult.model_validate({"contents": contents}, by_name=False)
            raise NotFound(
                "There is no resource of this URI; resources/templates/list shows the shapes that there are."
            )
        except InputRequired as needed:
            return ask(needed, exchange, dialogue.can)
        except DomainError as error:
            raise refusal(error, exchange, params.uri[:1024]) from error

    async def subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams | types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """Says yes to who may read the resource now, which is decided and recorded as a read of it."""
        await self.read(ctx, types.ReadResourceRequestParams(uri=params.uri))
        return types.EmptyResult()

    async def _offered(self, exchange: Exchange) -> set[str]:
        exchange.recorded = True
        offers = await self._reader.pipeline.list_offers(exchange.caller, exchange.action)
        return {offer.tool.name for offer in offers}

    async def _listed(self, exchange: Exchange, listing: Listing) -> Sequence[dict[str, Any]]:
        try:
            [answer] = await self._reader.read(exchange, [(listing.tool, listing.arguments)])
        except PermissionDenied:
            # Recorded as the denial that it is; the list shows what the caller may see, which is nothing.
            return []
        return [dict(each) for each in listing.resources(answer)]


def _described(source: ResourceSource) -> dict[str, Any]:
    return {
        "name": source.name,
        "title": source.title,
        "description": source.description,
        "mimeType": source.mime_type,
    }


def _cursor(params: types.PaginatedRequestParams | None) -> str | None:
    return params.cursor if params is not None else None
