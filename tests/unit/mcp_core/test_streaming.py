"""A stream that breaks says nothing of why, before its first event and after."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from services.mcp_core.edge.wire import Message, Response, Send
from services.mcp_core.mcp.exchange import Exchange
from services.mcp_core.mcp.held import Held
from services.mcp_core.mcp.streaming import Streamed
from services.mcp_core.model import Caller

START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


async def sent_by(begins: bool) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def serve(forward: Send) -> None:
        if begins:
            await forward(START)
            await forward({"type": "http.response.body", "body": b"data: 1\r\n\r\n", "more_body": True})
        raise RuntimeError("password=hunter2")

    async def settle(held: list[Any]) -> Response:
        raise AssertionError

    async def ask() -> Held:
        raise AssertionError

    exchange = Exchange(Caller(MagicMock(), MagicMock(), "token"))
    await Streamed(serve, settle, ask, exchange).send(send, "req-7")
    return sent


@pytest.mark.req("I6.7")
@pytest.mark.parametrize("begins", [False, True])
async def test_a_stream_that_breaks_ends_without_its_reason(begins: bool) -> None:
    sent = await sent_by(begins)
    assert "hunter2" not in str(sent)
    assert sent[0]["status"] == (200 if begins else 500)
    assert not sent[-1].get("more_body", False)
    assert begins or b"req-7" in sent[-1]["body"]
