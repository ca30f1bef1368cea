"""Many questions in flight over one bidirectional stream (R8).

Client and server write whatever is waiting as one message, so that batches form by themselves under load.
Every item has a deadline of its own, answers come in any order, and an item's error never ends the stream.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from typing import Any, Generic, TypeVar

from grpc import aio

from kubegate.common.v1 import stream_pb2
from services.common.call import CURRENT, Call, current_call
from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    ResourceExhausted,
    Unavailable,
    from_code,
)
from services.common.grpc_client import Peer
from services.common.grpc_outgoing import MAX_BATCH, Outgoing
from services.common.grpc_server import public_error
from services.common.log import get_logger
from services.common.telemetry.metrics import STREAM_RECONNECTS, STREAM_UP
from services.common.telemetry.rpc import answering, asking, method_of
from services.common.telemetry.trace_context import traceparent

MAX_BATCH_BYTES = 1024 * 1024
"""Bytes in one message at most, unless a single item is larger; servers take four times as much."""

log = get_logger("stream")

Request = TypeVar("Request")
Response = TypeVar("Response")


def serve_stream(
    requests: AsyncIterator[Any],
    handle: Callable[[Any], Awaitable[Any]],
    *,
    response_type: type[Any],
    answer_type: type[Any],
    limit: int = 1024,
) -> AsyncIterator[Any]:
    """Answers the items of a stream concurrently; reads no further while ``limit`` items are in flight, those
    whose answers the peer has not taken yet included."""
    stream = current_call()
    method = method_of(response_type)
    outgoing = Outgoing()

    async def answer(item: Any) -> None:
        header = item.header
        reply = answer_type(id=header.id)
        deadline = Deadline.after(header.timeout_ms / 1000)
        CURRENT.set(Call(stream.peer, deadline, stream.metadata, header.request_id))
        try:
            with answering(method, header.traceparent):
                async with asyncio.timeout(deadline.remaining()):
                    reply.response.CopyFrom(await handle(item.request))
        except TimeoutError:
            reply.error.CopyFrom(item_error(DeadlineExceeded("The item's deadline passed.")))
        except Exception as error:  # noqa: BLE001 - an item's crash is an answer, not the stream's end
            reply.error.CopyFrom(item_error(public_error(error, answer_type.DESCRIPTOR.full_name)))
        outgoing.add(reply)

    async def read() -> None:
        async for message in requests:
            for item in message.items:
                while len(outgoing.tasks) + len(outgoing.answers) >= limit:
                    outgoing.room.clear()
                    await outgoing.room.wait()
                outgoing.spawn(answer(item))

    return outgoing.messages(read(), response_type)


def item_error(error: DomainError) -> stream_pb2.ItemError:
    """An error as an answer carries it."""
    milliseconds = int((error.retry_after or 0) * 1000)
    return stream_pb2.ItemError(code=error.code, message=error.public_message, retry_after_ms=milliseconds)


class StreamBroken(Exception):
    """The stream ended before the answer came."""


class _Stream:
    """One open stream: what waits to be written and what waits for an answer."""

    def __init__(
        self,
        call: Any,
        request_type: type[Any],
        broken: Callable[[BaseException | None], None],
        answered: Callable[[], None],
    ) -> None:
        self._call = call
        self._request_type = request_type
        self._outbox: OrderedDict[int, Any] = OrderedDict()
        self._wake = asyncio.Event()
        self.pending: dict[int, asyncio.Future[Any]] = {}
        self.closing = False
        self._broken = broken
        self._answered: Callable[[], None] | None = answered
        # Of no request's trace: they serve all of them.
        self._tasks = [
            asyncio.create_task(self._write(), context=Context()),
            asyncio.create_task(self._read(), context=Context()),
        ]

    def send(self, item: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.pending[item.header.id] = future
        self._outbox[item.header.id] = item
        self._wake.set()
        return future

    def forget(self, number: int) -> None:
        """Nobody waits for that item any more: unless it has left already, it never does."""
        self.pending.pop(number, None)
        self._outbox.pop(number, None)

    def retire(self) -> None:
        """Takes no more items; closes when the last answer is there."""
        self.closing = True
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    await self._call.write(self._request_type(items=self._batch()))
                if self.closing:
                    await self._call.done_writing()
                    return
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            # The reader learns why the stream ended, the writer sometimes only that it did.
            self.fail(error if isinstance(error, aio.AioRpcError) else None)

    def _batch(self) -> list[Any]:
        batch = [self._outbox.popitem(last=False)[1]]
        size = batch[0].ByteSize()
        while self._outbox and len(batch) < MAX_BATCH:
            size += next(iter(self._outbox.values())).ByteSize()
            if size > MAX_BATCH_BYTES:
                break
            batch.append(self._outbox.popitem(last=False)[1])
        return batch

    async def _read(self) -> None:
        cause: BaseException | None = None
        try:
            async for message in self._call:
                if self._answered is not None:
                    self._answered()
                    self._answered = None
                for answer in message.answers:
                    future = self.pending.pop(answer.id, None)
                    if future is not None and not future.done():
                        future.set_result(answer)
        except aio.AioRpcError as error:
            cause = error
        finally:
            self.fail(cause)

    def fail(self, cause: BaseException | None) -> None:
        """Ends the stream: every item in flight learns of it."""
        if not self.closing:
            self._broken(cause)
        self.closing = True
        self._outbox.clear()
        self._wake.set()
        pending, self.pending = self.pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(StreamBroken())

    async def close(self) -> None:
        self.closing = True
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.fail(None)


class StreamClient(Generic[Request, Response]):
    """Asks a peer over a stream that is reopened when it breaks and renewed before it grows old.

    A renewed stream is open before the old one takes its last item (make before break), and its channel
    carries the newest certificate.
    """

    def __init__(
        self,
        peer: Peer,
        method: Callable[[aio.Channel], Any],
        request_type: type[Any],
        item_type: Callable[..., Any],
        *,
        patience: float = 0.0,
        limit: int = 1024,
        max_age: float = 3600.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``patience``: seconds, within an item's deadline, for which a broken stream is tried again; 0 means
        once more and no longer. Only what is idempotent may be asked through this client.
        ``max_age``: seconds, on the clock ``now``, after which a stream is renewed, less a random tenth at most.
        """
        self._peer = peer
        self._method = method
        self._request_type = request_type
        self._item_type = item_type
        self._patience = patience
        self._limit = limit
        self._max_age = max_age
        self._now = now
        self._name = method_of(request_type)
        STREAM_RECONNECTS.labels(self._name)
        self._stream: _Stream | None = None
        self._broken = False
        self._renew_at = 0.0
        self._next_id = 0
        self._in_flight = 0
        self._closed = False

    async def ask(self, request: Request, deadline: Deadline, request_id: str = "") -> Response:
        """The answer to one question.

        Raises:
            DomainError: as the peer sent it; ``Unavailable`` where the peer is away, ``DeadlineExceeded``
                where it did not answer in time, ``ResourceExhausted`` where too much is in flight here.
        """
        if self._in_flight >= self._limit:
            raise ResourceExhausted(
                f"Too many questions to the {self._peer.name} service are waiting.",
                retry_after=0.5,
            )
        self._in_flight += 1
        try:
            with asking(self._name, self._peer.address):
                return await self._ask(request, deadline.child(), request_id)
        finally:
            self._in_flight -= 1

    async def _ask(self, request: Request, deadline: Deadline, request_id: str) -> Response:
        give_up = min(deadline.at, Deadline.after(self._patience).at)
        attempts = 0
        while True:
            attempts += 1
            if self._closed:
                raise self._unreachable()
            stream = self._open()
            self._next_id += 1
            number = self._next_id
            remaining = deadline.remaining()
            header = stream_pb2.ItemHeader(
                id=number,
                timeout_ms=max(int(remaining * 1000), 1),
                request_id=request_id,
                traceparent=traceparent(),
            )
            try:
                async with asyncio.timeout(remaining):
                    answer = await stream.send(self._item_type(header=header, request=request))
            except TimeoutError:
                stream.forget(number)
                raise DeadlineExceeded(f"The {self._peer.name} service did not answer in time.") from None
            except asyncio.CancelledError:
                stream.forget(number)
                raise
            except StreamBroken:
                if attempts >= 2 and Deadline(give_up).expired:
                    raise self._unreachable() from None
                await asyncio.sleep(min(0.02 * attempts, 0.2))
                continue
            if answer.WhichOneof("outcome") == "response":
                response: Response = answer.response
                return response
            raise from_code(
                answer.error.code,
                answer.error.message,
                answer.error.retry_after_ms / 1000 or None,
            )

    def _open(self) -> _Stream:
        now = self._now()
        stream = self._stream
        if stream is not None and not stream.closing:
            if now < self._renew_at:
                return stream
            stream.retire()
        self._renew_at = now + self._max_age * random.uniform(0.9, 1.0)  # noqa: S311 - jitter
        call = self._method(self._peer.channel())()
        self._stream = _Stream(call, self._request_type, self._on_broken, self._on_answer)
        return self._stream

    def _on_answer(self) -> None:
        """The first answer of a stream: only now is it known to be one."""
        if self._broken:
            STREAM_RECONNECTS.labels(self._name).inc()
            log.info("stream restored", peer=self._peer.name)
        self._broken = False
        STREAM_UP.labels(self._name).set(1)

    def _on_broken(self, cause: BaseException | None) -> None:
        # A status of the stream itself, such as a certificate that the peer does not accept, is never the answer
        # to a question: whoever asked learns that the peer is away, and the log says why.
        code, details = (cause.code().name, cause.details()) if isinstance(cause, aio.AioRpcError) else ("closed", "")
        if not self._broken:
            log.warning("stream broken", peer=self._peer.name, code=code, details=details)
        self._broken = True
        STREAM_UP.labels(self._name).set(0)

    def _unreachable(self) -> DomainError:
        return Unavailable(f"The {self._peer.name} service cannot be reached; nothing was done. Try again shortly.")

    async def close(self) -> None:
        """Ends the stream for good; what is in flight fails."""
        self._closed = True
        if self._stream is not None:
            await self._stream.close()
            self._stream = None
