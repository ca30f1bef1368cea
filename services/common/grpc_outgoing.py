"""What the serving side of a stream owes its peer, and how it leaves (R8)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from services.common.call import current_call

MAX_BATCH = 256
"""Items in one message at most."""


class Outgoing:
    """The answers of one stream that the peer has not taken yet, and the work that will give more."""

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.room = asyncio.Event()
        """Set when work has ended or answers have left; whoever waits for it clears it first."""
        self._wake = asyncio.Event()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that ends with the stream."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def add(self, answer: Any) -> None:
        """An answer to send with the next message."""
        self.answers.append(answer)
        self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.room.set()
        self._wake.set()

    async def messages(self, read: Coroutine[Any, Any, None], response_type: type[Any]) -> AsyncIterator[Any]:
        """Everything that is waiting as one message, until ``read`` has read the last question and all are answered.
        Reads no more when the server stops."""
        stopping = current_call().stopping

        async def stop_reading() -> None:
            if stopping is not None:
                await stopping.wait()
                reader.cancel()

        reader = asyncio.create_task(read)
        reader.add_done_callback(lambda _: self._wake.set())
        stopper = asyncio.create_task(stop_reading())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self.answers:
                    batch = [self.answers.popleft() for _ in range(min(len(self.answers), MAX_BATCH))]
                    yield response_type(answers=batch)
                    self.room.set()
                if reader.done() and not self.tasks and not self.answers:
                    if not reader.cancelled():
                        reader.result()
                    return
        finally:
            stopper.cancel()
            reader.cancel()
            for task in self.tasks:
                task.cancel()
