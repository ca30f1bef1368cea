"""An answer that may be a stream of server-sent events: sent as it comes, with the edge's own headers.

The SDK decides while it is sent: an answer without events is one JSON document with the status that fits. Every record
is durable before a byte that depends on it: `containment` sees to that here, since nobody can take back an event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import mcp_types as types

from services.common.errors import DomainError, Internal
from services.common.log import get_logger
from services.mcp_core.edge.wire import SECURITY_HEADERS, Message, Response, Send
from services.mcp_core.errors import ActionDenied
from services.mcp_core.mcp.exchange import Exchange
from services.mcp_core.mcp.held import Held
from services.mcp_core.mcp.messages import jsonrpc_error

Serve = Callable[[Send], Awaitable[None]]
Settle = Callable[[list[Message]], Awaitable[Response]]
Ask = Callable[[], Awaitable[Held]]

log = get_logger("mcp")

_OURS = {name for name, _ in SECURITY_HEADERS} | {b"content-length", b"x-request-id"}


class Streamed(Response):
    """``serve``: lets the SDK answer into a send. ``settle``: makes one response of an answer without events.

    ``exchange``: may come to a denial, which takes the place of the stream where it is known before the first event; or
    to a question, which takes the place of the answer: ``ask`` puts it.
    """

    __slots__ = ("_ask", "_exchange", "_serve", "_settle")

    def __init__(self, serve: Serve, settle: Settle, ask: Ask, exchange: Exchange) -> None:
        super().__init__(200)
        self._serve = serve
        self._settle = settle
        self._ask = ask
        self._exchange = exchange

    async def send(self, send: Send, request_id: str) -> None:
        """Raises ActionDenied, before anything was sent."""
        streaming, begun = False, False
        held: list[Message] = []

        async def forward(message: Message) -> None:
            nonlocal streaming, begun
            if message["type"] == "http.response.start":
                headers = message["headers"]
                streaming = any(key == b"content-type" and b"text/event-stream" in value for key, value in headers)
                if streaming:
                    kept = [pair for pair in headers if pair[0] not in _OURS]
                    own = [(b"x-request-id", request_id.encode()), (b"x-accel-buffering", b"no")]
                    message = {**message, "headers": [*own, *kept, *SECURITY_HEADERS]}
            if not streaming or message["type"] == "http.response.start":
                held.append(message)
                return
            if self._exchange.question is not None:
                return
            if not begun:
                if self._exchange.step_up is not None:
                    return
                begun = True
                await send(held.pop())
            await send(message)

        try:
            await self._serve(forward)
        except Exception as error:
            log.error("unexpected error", request_id=request_id, exc_info=error)
            if begun:
                # Nobody can take back what was sent: the stream ends without an answer.
                await send({"type": "http.response.body", "body": b""})
            else:
                text = f"{Internal.SENTENCE} (request id {request_id})"
                await jsonrpc_error(500, types.INTERNAL_ERROR, text).send(send, request_id)
            return
        if self._exchange.question is not None:
            await self._asked(send, request_id, begun)
            return
        if streaming:
            if self._exchange.step_up is not None and not begun:
                raise self._exchange.step_up
            return
        try:
            response = await self._settle(held)
        except ActionDenied:
            raise
        except DomainError as error:
            response = _withheld(error, request_id)
        await response.send(send, request_id)

    async def _asked(self, send: Send, request_id: str, begun: bool) -> None:
        try:
            held = await self._ask()
        except DomainError as error:
            if begun:
                await send({"type": "http.response.body", "body": b""})
            else:
                await _withheld(error, request_id).send(send, request_id)
            return
        if begun:
            await held.follow(send)
        else:
            await held.send(send, request_id)


def _withheld(error: DomainError, request_id: str) -> Response:
    return jsonrpc_error(503, types.INTERNAL_ERROR, f"{error.public_message} (request id {request_id})")
