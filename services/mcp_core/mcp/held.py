"""A call of a client of 2025 that is held open: a stream of questions, and what came of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from services.mcp_core.edge.wire import SECURITY_HEADERS, Message, Response, Send
from services.mcp_core.json_text import dump_json

Say = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Sends one message to the client."""


class Held(Response):
    """Sends each message as an event when there is one. ``first`` is there, ``further`` says all that follows."""

    __slots__ = ("_first", "_further")

    def __init__(self, first: Mapping[str, Any], further: Callable[[Say], Awaitable[None]]) -> None:
        super().__init__(200)
        self._first = first
        self._further = further

    async def send(self, send: Send, request_id: str) -> None:
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
            *(pair for pair in SECURITY_HEADERS if pair[0] != b"cache-control"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.follow(send)

    async def follow(self, send: Send) -> None:
        """Goes on with a stream that has begun, to its end."""

        async def say(message: Mapping[str, Any]) -> None:
            await send(_event(message))

        await say(self._first)
        await self._further(say)
        await send({"type": "http.response.body", "body": b""})


def _event(message: Mapping[str, Any]) -> Message:
    return {
        "type": "http.response.body",
        "body": b"event: message\ndata: " + dump_json(message) + b"\n\n",
        "more_body": True,
    }
