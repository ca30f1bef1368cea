"""completion/complete: namespaces, kinds and names, and only those that the caller may see.

They come from calls of list_namespaces and list_resources, decided and recorded as such, and from the caller's own
offers. What is denied completes to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext

from services.common.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from services.mcp_core.clusters import ARGUMENT
from services.mcp_core.mcp.exchange import Exchange, exchange_of
from services.mcp_core.mcp.pack import Pack
from services.mcp_core.mcp.reading import Reader, refusal

MOST = 100
"""Values in one answer, by the specification."""

LOOKED_AT = 1000
"""Names of one kind that are looked at."""


class CompletionHandlers:
    """Handlers of the SDK's server."""

    def __init__(self, reader: Reader, pack: Pack) -> None:
        self._reader = reader
        self._prompts = pack.prompts
        self._sources = {source.template: source for source in pack.resources}
        self._clusters = pack.clusters

    async def complete(
        self, ctx: ServerRequestContext[Any, Any], params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        """Values for one argument, given the others."""
        exchange = exchange_of(ctx)
        others = dict(params.context.arguments or {}) if params.context is not None else {}
        typed = params.argument.value
        try:
            what = self._completes(params, others)
            found = await self._values(exchange, what, others) if what else []
        except (PermissionDenied, NotFound, InvalidArgument, FailedPrecondition):
            found = []
        except DomainError as error:
            raise refusal(error, exchange) from error
        fitting = sorted({value for value in found if value.startswith(typed)})
        return types.CompleteResult(
            completion=types.Completion(values=fitting[:MOST], total=len(fitting), has_more=len(fitting) > MOST)
        )

    def _completes(self, params: types.CompleteRequestParams, others: dict[str, str]) -> str:
        name = params.argument.name
        if isinstance(params.ref, types.PromptReference):
            prompt = self._prompts.get(params.ref.name)
            arguments = prompt.arguments if prompt is not None else ()
            return next((argument.completes for argument in arguments if argument.name == name), "")
        source = self._sources.get(params.ref.uri)
        others |= source.fixed if source is not None else {}
        what = source.completes.get(name, "") if source is not None else ""
        return others.get("kind", "") if what == "*" else what

    async def _values(self, exchange: Exchange, what: str, others: Mapping[str, str]) -> Sequence[str]:
        # None is assumed where there are several: without it nothing is completed.
        place = {ARGUMENT: others.get(ARGUMENT, "")} if self._clusters else {}
        if what == ARGUMENT:
            exchange.recorded = True
            offers = await self._reader.pipeline.list_offers(exchange.caller, exchange.action)
            return [name for offer in offers for name in offer.clusters]
        if what == "namespace":
            return await self._namespaces(exchange, place)
        if what == "kind":
            exchange.recorded = True
            offers = await self._reader.pipeline.list_offers(exchange.caller, exchange.action)
            listed = next((offer.permissions for offer in offers if offer.tool.name == "list_resources"), ())
            return [f"{each.resource}.{each.group}" if each.group else each.resource for each in listed]
        arguments: dict[str, Any] = {"kind": what, "limit": LOOKED_AT, **place}
        if namespace := others.get("namespace"):
            arguments["namespace"] = namespace
        [answer] = await self._reader.read(exchange, [("list_resources", arguments)])
        table: Any = answer.structured
        name = table["columns"].index("Name") if "Name" in table["columns"] else 0
        return [str(row[name]) for row in table["rows"]]

    async def _namespaces(self, exchange: Exchange, place: Mapping[str, str]) -> Sequence[str]:
        try:
            [answer] = await self._reader.read(exchange, [("list_namespaces", place)])
        except PermissionDenied:
            # Who may not list namespaces knows those that a grant names in full.
            offers = await self._reader.pipeline.offers(exchange.caller)
            return [name for offer in offers for name in offer.scope.patterns if not set(name) & set("*?[")]
        found: Any = answer.structured["namespaces"]
        return [str(each["name"]) for each in found]
