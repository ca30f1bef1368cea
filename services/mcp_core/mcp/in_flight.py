"""Requests of older clients that are being served here, so that `notifications/cancelled` can end one.

A notification names a request by the id that the client gave it. Ids of different callers are alike, and those of two
clients with one credential may be, too: a request is ended only for the credential, address and program that it came
from, and only where exactly one has that id. 2026-07-28 clients close the stream instead; what is served by another
replica goes on to its deadline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from services.mcp_core.mcp.exchange import Exchange, Key


class InFlight:
    """Exchanges by what a cancellation has to name."""

    def __init__(self) -> None:
        self._exchanges: dict[Key, list[Exchange]] = {}

    @contextlib.contextmanager
    def serving(self, exchange: Exchange) -> Iterator[None]:
        """The exchange can be cancelled inside this context."""
        key = exchange.key
        same = self._exchanges.setdefault(key, [])
        same.append(exchange)
        try:
            yield
        finally:
            same.remove(exchange)
            if not same:
                del self._exchanges[key]

    def cancel(self, notice: Exchange, params: dict[str, Any]) -> None:
        """Ends the request that a `notifications/cancelled` names, if it is one."""
        number = params.get("requestId")
        if not isinstance(number, str | int) or isinstance(number, bool):
            return
        named = self._exchanges.get(replace(notice, number=number).key, [])
        if len(named) == 1:
            named[0].cancel()
