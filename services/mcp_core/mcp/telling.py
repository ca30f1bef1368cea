"""What a client hears while its call goes on: progress for its token, and log messages down to the level it asked for.

2026-07-28 asks with every request, in ``_meta``. Older clients say `logging/setLevel` once, and no session keeps it: so
it is kept here, by the credential and the place that a client speaks from, and what another replica serves is silent.
Not to be told is always within the protocol; two clients that are alike in all of that share what one of them asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

import mcp_types as types
from mcp.server.context import ServerRequestContext

from services.mcp_core.mcp.exchange import Exchange, Key, exchange_of
from services.mcp_core.model import Report

LEVELS: tuple[str, ...] = get_args(types.LoggingLevel)
"""RFC 5424, in ascending severity."""

TOLD: types.LoggingLevel = "info"
"""The level of what is told of a call."""

LOGGER = "kubegate"

MOST = 4096
"""Clients whose level is kept; the one that was heard of longest ago is forgotten first."""

Notify = Callable[[types.ServerNotification], Awaitable[None]]


class LogLevels:
    """What clients of 2025 asked this replica to be told."""

    def __init__(self) -> None:
        self._levels: OrderedDict[Key, str] = OrderedDict()

    async def set(self, ctx: ServerRequestContext[Any, Any], params: types.SetLevelRequestParams) -> types.EmptyResult:
        """The handler of `logging/setLevel`."""
        client = exchange_of(ctx).client
        self._levels[client] = params.level
        self._levels.move_to_end(client)
        if len(self._levels) > MOST:
            self._levels.popitem(last=False)
        return types.EmptyResult()

    def of(self, exchange: Exchange, message: Mapping[str, Any]) -> str:
        """The least severe level that the client of this request wants; "" where it wants none."""
        if not exchange.modern:
            return self._levels.get(exchange.client, "")
        asked = _meta(message).get(types.LOG_LEVEL_META_KEY)
        return asked if isinstance(asked, str) and asked in LEVELS else ""


def progress_token(message: Mapping[str, Any]) -> types.ProgressToken | None:
    """What a request names its progress by, if it wants to hear of it."""
    token = _meta(message).get("progressToken")
    return token if isinstance(token, str | int) and not isinstance(token, bool) else None


def report(notify: Notify, token: types.ProgressToken | None, level: str) -> Report | None:
    """Tells how far a call is; None where nobody wants to hear."""
    logs = bool(level) and LEVELS.index(level) <= LEVELS.index(TOLD)
    if token is None and not logs:
        return None

    async def tell(done: float, total: float | None, message: str) -> None:
        if token is not None:
            await notify(
                types.ProgressNotification(
                    params=types.ProgressNotificationParams(
                        progress_token=token, progress=done, total=total, message=message or None
                    )
                )
            )
        if logs:
            data = {"message": message, "done": done, "total": total}
            await notify(
                types.LoggingMessageNotification(
                    params=types.LoggingMessageNotificationParams(level=TOLD, logger=LOGGER, data=data)
                )
            )

    return tell


def _meta(message: Mapping[str, Any]) -> Mapping[str, Any]:
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta if isinstance(meta, dict) else {}
