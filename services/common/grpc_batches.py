"""The serving side of a stream whose questions are cheaper answered together (R8)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from services.common.call import CURRENT, Call, current_call
from services.common.errors import DeadlineExceeded, DomainError
from services.common.grpc_outgoing import Outgoing
from services.common.grpc_server import public_error
from services.common.grpc_stream import item_error
from services.common.telemetry.rpc import Measured, answering_item, method_of

_Item = tuple[Any, Measured]
"""An item of a message, and its measurement: items of one group belong to many traces."""

Answers = Sequence[Any]
"""Responses or ``DomainError``s, in the order of the questions."""


def serve_batches(
    requests: AsyncIterator[Any],
    handle: Callable[[Sequence[Any]], Sequence[tuple[Sequence[int], Awaitable[Answers]]]],
    *,
    response_type: type[Any],
    answer_type: type[Any],
    limit: int = 1024,
) -> AsyncIterator[Any]:
    """As ``serve_stream`` for what is cheaper done together: ``handle`` gets the requests of a message and returns
    groups of them (as indices) with what will answer each group. A group is one task instead of one per item;
    deadlines and errors stay those of the items (R8). What a group does not finish in time goes on: an answer
    that comes too late is an error to its asker, who asks again. Nothing more is read while ``limit`` items are in
    flight, those of unfinished groups and those whose answers the peer has not taken yet included.
    """
    stream = current_call()
    method = method_of(response_type)
    outgoing = Outgoing()
    in_flight = 0

    def reply(items: Sequence[_Item], results: Answers) -> None:
        for (item, measured), result in zip(items, results, strict=True):
            if isinstance(result, DomainError):
                outgoing.add(answer_type(id=item.header.id, error=item_error(result)))
                measured.end(result.code.name)
            else:
                outgoing.add(answer_type(id=item.header.id, response=result))
                measured.end("OK")

    async def answer(items: Sequence[_Item], work: Awaitable[Answers]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        working = asyncio.ensure_future(work)
        # Whoever asked is told in time; the event itself is stored or not, as a whole.
        waiting = sorted(enumerate(items), key=lambda pair: pair[1][0].header.timeout_ms)
        try:
            while waiting and not working.done():
                left = waiting[0][1][0].header.timeout_ms / 1000 - (loop.time() - began)
                await asyncio.wait((working,), timeout=max(left, 0))
                if working.done():
                    break
                passed = loop.time() - began
                late = [pair for pair in waiting if pair[1][0].header.timeout_ms / 1000 <= passed]
                waiting = waiting[len(late) :]
                reply([item for _, item in late], [DeadlineExceeded("The item's deadline passed.")] * len(late))
            results = await working
        except Exception as error:  # noqa: BLE001 - a group's crash is an answer, not the stream's end
            results = [public_error(error, answer_type.DESCRIPTOR.full_name)] * len(items)
        finally:
            working.cancel()
        reply([item for _, item in waiting], [results[index] for index, _ in waiting])

    def finished(_: asyncio.Task[None], size: int) -> None:
        nonlocal in_flight
        in_flight -= size

    async def read() -> None:
        nonlocal in_flight
        async for message in requests:
            items = [(item, answering_item(method, item.header.traceparent)) for item in message.items]
            while (busy := in_flight + len(outgoing.answers)) and busy + len(items) > limit:
                outgoing.room.clear()
                await outgoing.room.wait()
            CURRENT.set(Call(stream.peer, stream.deadline, stream.metadata, ""))
            try:
                groups = handle([item.request for item, _ in items])
            except Exception as error:  # noqa: BLE001 - as above
                reply(items, [public_error(error, answer_type.DESCRIPTOR.full_name)] * len(items))
                continue
            for indices, work in groups:
                task = outgoing.spawn(answer([items[index] for index in indices], work))
                task.add_done_callback(partial(finished, size=len(indices)))
                in_flight += len(indices)

    return outgoing.messages(read(), response_type)
