"""What is asked while a peer takes nothing (R8)."""

import asyncio
from typing import Any

import pytest

from kubegate.authz.v1 import authz_pb2
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded
from services.common.grpc_stream import StreamClient


class Stuck:
    """A stream whose peer takes nothing, until it is let."""

    def __init__(self) -> None:
        self.taking = asyncio.Event()
        self.written: list[str] = []

    async def write(self, message: Any) -> None:
        await self.taking.wait()
        self.written += [item.request.request_id for item in message.items]

    def __aiter__(self) -> "Stuck":
        return self

    async def __anext__(self) -> Any:
        await asyncio.Event().wait()

    def cancel(self) -> None:
        pass


class Peer:
    name, address = "authz", "127.0.0.1:1"

    def channel(self) -> None:
        return None


@pytest.mark.req("R8")
async def test_what_nobody_waits_for_any_more_does_not_wait_to_be_sent() -> None:
    call, peer = Stuck(), Peer()
    client: StreamClient[Any, Any] = StreamClient(
        peer,  # type: ignore[arg-type]
        lambda _: lambda: call,
        authz_pb2.CheckStreamRequest,
        authz_pb2.CheckItem,
    )

    def ask(name: str, seconds: float = 60) -> asyncio.Task[Any]:
        return asyncio.create_task(client.ask(authz_pb2.CheckRequest(request_id=name), Deadline.after(seconds)))

    first = ask("first")
    while client._stream is None or client._stream._outbox or not client._stream.pending:
        await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await ask("late", 0.15)
    cancelled = [ask(f"c{n}") for n in range(50)]
    while len(client._stream._outbox) < len(cancelled):
        await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    assert list(client._stream._outbox) == []
    last = ask("last")
    call.taking.set()
    while len(call.written) < 2:
        await asyncio.sleep(0)
    assert call.written == ["first", "last"]
    await client.close()
    await asyncio.gather(first, last, return_exceptions=True)
