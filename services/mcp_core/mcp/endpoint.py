"""Takes POST /mcp through the SDK, and sees to it that its record is durable before the answer leaves.

The edge has authenticated the request, without the Authorization header; handlers find the ``Exchange`` of their
own request in the scope, so one process-wide server keeps nothing per client and replicas are interchangeable.
Policy is decided on the parsed body, never on Mcp-* headers, which 2025 requests do not even cross-check.

A 2026-07-28 client that closes its connection ends the work behind it; older ones send `notifications/cancelled`, and
for them a lost connection means nothing (2025-11-25, Cancellation).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import mcp_types as types
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from services.common.errors import DomainError, Internal, InvalidArgument
from services.common.telemetry.tracing import NoSpan, Span
from services.mcp_core.edge.wire import Disconnected, Message, Request, Response, Send
from services.mcp_core.json_text import parse_json
from services.mcp_core.mcp.elicitation import SESSION, Elicitations, is_answer
from services.mcp_core.mcp.exchange import STATE, Exchange
from services.mcp_core.mcp.held import Held
from services.mcp_core.mcp.in_flight import InFlight
from services.mcp_core.mcp.messages import (
    ACTIONS,
    FAULTS,
    INVALID,
    is_message,
    is_modern,
    jsonrpc_error,
    takes_events,
)
from services.mcp_core.mcp.pack import Pack
from services.mcp_core.mcp.server import McpSettings, build
from services.mcp_core.mcp.span import mcp_span
from services.mcp_core.mcp.streaming import Streamed
from services.mcp_core.mcp.telling import LogLevels, progress_token
from services.mcp_core.model import Caller, Result
from services.mcp_core.pipeline import Pipeline, result_of

_KEPT = {b"allow", b"mcp-protocol-version"}


class McpEndpoint:
    """Serves POST /mcp for authenticated callers."""

    def __init__(self, pipeline: Pipeline, pack: Pack, settings: McpSettings, elicitations: Elicitations) -> None:
        self._elicitations = elicitations
        self._pipeline = pipeline
        self._max_body = settings.max_body
        self._in_flight = InFlight()
        self._tools = frozenset(pack.tools)
        # The others say nothing before their answer; a stream would cost them for nothing.
        self._telling = frozenset(name for name, tool in pack.tools.items() if tool.may_tell)
        self._levels = LogLevels()
        server = build(pipeline, pack, settings, self._levels)
        self._answers, self._streams = (
            StreamableHTTPSessionManager(
                server,
                json_response=json_response,
                stateless=True,
                # Host and Origin are the edge's: one list for every path.
                security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
                max_request_body_size=settings.max_body,
            )
            for json_response in (True, False)
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The endpoint serves inside this context."""
        async with self._answers.run(), self._streams.run():
            yield

    async def answer(self, request: Request, caller: Caller) -> Response:
        """One POST. Its record is durable when this returns, or, for a stream, before what depends on it is sent.

        Raises:
            InvalidArgument: the body is too long or too slow. Unavailable: the record failed; the answer is withheld.
            ActionDenied: the client can obtain the scopes that the call lacks.
        """
        exchange = Exchange(caller, modern=is_modern(request))
        try:
            response = await self._respond(request, exchange)
        except Disconnected:
            self._pipeline.gone(caller, exchange.action)
            raise
        except DomainError as error:
            await self._pipeline.note(caller, exchange.action, result_of(error), error.public_message)
            raise
        return response if exchange.streamed else await self._noted(response, exchange)

    async def _noted(self, response: Response, exchange: Exchange) -> Response:
        if not exchange.recorded:
            if response.status >= 400 and exchange.result is Result.SUCCESS:
                exchange.result, exchange.error = Result.FAILURE, f"refused with HTTP status {response.status}"
            if exchange.action == INVALID and exchange.result is Result.SUCCESS:
                exchange.result, exchange.error = Result.FAILURE, "not a request that is served"
            await self._pipeline.note(
                exchange.caller, exchange.action, exchange.result, exchange.error, exchange.violation
            )
        if exchange.step_up is not None:
            raise exchange.step_up
        return response

    async def _respond(self, request: Request, exchange: Exchange) -> Response:
        if request.media_type() != "application/json":
            return jsonrpc_error(415, types.INVALID_REQUEST, "Send a JSON-RPC message as application/json.")
        body = await request.body(self._max_body)
        try:
            message = parse_json(body)
        except InvalidArgument as error:
            return jsonrpc_error(400, types.PARSE_ERROR, error.public_message)
        if is_answer(message) and not exchange.modern:
            exchange.action = ACTIONS["elicitation/create"]
            await self._elicitations.take(exchange.caller, message)
            return Response(202)
        if not is_message(message):
            return jsonrpc_error(400, types.INVALID_REQUEST, "Send one JSON-RPC 2.0 request or notification.")
        exchange.action = ACTIONS.get(message["method"], INVALID)
        exchange.number = message.get("id")
        if exchange.number is None and not message["method"].startswith("notifications/"):
            return jsonrpc_error(400, types.INVALID_REQUEST, "A request needs an id.")
        if message["method"] == "notifications/cancelled" and not exchange.modern:
            self._in_flight.cancel(exchange, message.get("params", {}))
        if not exchange.modern and takes_events(request):
            exchange.can = self._elicitations.can(request, exchange.caller)
        if not self._tells(request, message, exchange):
            with self._traced(request, message, exchange):
                response = await self._answered(request, body, exchange)
            if exchange.question is not None:
                return await self._elicitations.held(exchange, message, exchange.question)
            if message["method"] == "initialize" and response.status == 200:
                session = self._elicitations.session(exchange.caller, message)
                response.headers += [(SESSION, session.encode())] if session else []
            return response
        exchange.streamed = True

        async def serve(send: Send) -> None:
            with self._traced(request, message, exchange):
                await self._streamed(request, body, exchange, send)

        async def settle(held: list[Message]) -> Response:
            return await self._noted(_collected(held, exchange), exchange)

        async def ask() -> Held:
            if exchange.question is None:
                raise Internal
            return await self._elicitations.held(exchange, message, exchange.question)

        return Streamed(serve, settle, ask, exchange)

    def _tells(self, request: Request, message: dict[str, Any], exchange: Exchange) -> bool:
        """Whether the client wants to hear how far this call is, and takes a stream of events as the answer."""
        if message["method"] != "tools/call" or not takes_events(request):
            return False
        name = message.get("params", {}).get("name")
        if not isinstance(name, str) or name not in self._telling:
            return False
        exchange.token, exchange.level = progress_token(message), self._levels.of(exchange, message)
        return exchange.token is not None or bool(exchange.level)

    def _traced(self, request: Request, message: dict[str, Any], exchange: Exchange) -> Span | NoSpan:
        made = mcp_span(message, exchange.action, self._tools, request.text(b"mcp-protocol-version"))
        exchange.trace(made.context)
        return made

    async def _answered(self, request: Request, body: bytes, exchange: Exchange) -> Response:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        leaving = asyncio.create_task(_left(request, exchange)) if exchange.modern else None
        try:
            with self._in_flight.serving(exchange):
                await self._answers.handle_request(_scope(request, exchange), _receive(body), send)
        finally:
            if leaving is not None:
                leaving.cancel()
        return _collected(sent, exchange)

    async def _streamed(self, request: Request, body: bytes, exchange: Exchange, send: Send) -> None:
        receive = _receive(body, request if exchange.modern else None)
        try:
            with self._in_flight.serving(exchange):
                await self._streams.handle_request(_scope(request, exchange), receive, send)
        finally:
            if not exchange.recorded and exchange.handled:
                self._pipeline.gone(exchange.caller, exchange.action)


def _scope(request: Request, exchange: Exchange) -> dict[str, Any]:
    scope = dict(request.scope)
    scope["state"] = {STATE: exchange}
    return scope


def _receive(body: bytes, request: Request | None = None) -> Any:
    """The body that has been read; after it what the connection says, or nothing, ever."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if pending:
            return pending.pop()
        if request is not None:
            return await request.receive()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    return receive


async def _left(request: Request, exchange: Exchange) -> None:
    """Ends the work when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    exchange.cancel()


def _collected(sent: list[Message], exchange: Exchange) -> Response:
    if not sent:
        raise Internal
    start = sent[0]
    if not exchange.handled and not exchange.modern and start["status"] == 400:
        return _fixed(sent)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    media_type = next(
        (value.decode("latin-1") for key, value in start["headers"] if key == b"content-type"), "application/json"
    )
    headers = [(key, value) for key, value in start["headers"] if key in _KEPT]
    return Response(start["status"], content, media_type, headers)


def _fixed(sent: list[Message]) -> Response:
    """The SDK's refusal of an older client's request, in a sentence of ours: its own would tell what its parser saw."""
    body = parse_json(b"".join(message.get("body", b"") for message in sent[1:]))
    code = body["error"]["code"]
    return jsonrpc_error(400, code, FAULTS.get(code, FAULTS[types.INVALID_REQUEST]))
