"""Group commit: everything that waits goes into one transaction and one fsync.

Events come from the event loop; one thread writes. An append returns after the commit that holds it, and
after the mirror has been given its line. Intents and outcomes of the core have capacity of their own and go
first, so that a flood of other events cannot keep a running mutation from being recorded (R25).
"""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from services.audit.adapters.mirror import Mirror
from services.audit.adapters.sqlite_reads import SqliteReads
from services.audit.adapters.sqlite_store import SqliteStore, StoreBroken
from services.audit.ports import Ack, Draft, Filter, Record
from services.common.errors import DomainError, ResourceExhausted, Unavailable
from services.common.log import get_logger

RESERVED_SHARE = 4
"""One part in so many of the queue is kept for intents and outcomes."""

RETRY = 1.0
"""Seconds after which a store or mirror that failed is tried again without being asked."""

_NOT_RECORDED = "The event could not be recorded, so nothing may be done on it. Try again."

_Waiting = tuple[Draft, "asyncio.Future[Ack]"]

log = get_logger("audit.log")


class GroupCommitLog:
    """The port ``Log`` over a store, its mirror, and reading connections. Belongs to one event loop."""

    def __init__(self, store: SqliteStore, mirror: Mirror, *, queue_limit: int) -> None:
        self._store, self._mirror = store, mirror
        # One connection and thread each, so that no long query of an operator holds up an outcome's look-up.
        self._finds, self._pages = SqliteReads(store.path), SqliteReads(store.path)
        self._find_thread, self._page_thread = (ThreadPoolExecutor(1, name) for name in ("audit-find", "audit-page"))
        self._limit = queue_limit
        self._loop = asyncio.get_running_loop()
        self._size, self._checkpoint = store.size, store.checkpoint
        self._growth = asyncio.Event()
        self._waiting = 0
        self._store_problem = ""
        self._mirror_problem = ""
        self._wake = threading.Condition()
        self._reserved: deque[_Waiting] = deque()
        self._ordinary: deque[_Waiting] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        return self._size

    @property
    def checkpoint(self) -> str:
        return self._checkpoint

    def problems(self) -> list[str]:
        """Why events cannot be stored or mirrored; empty when they can."""
        ended = "" if self._stopping or self._thread.is_alive() else "the thread that writes has ended; restart audit"
        return [problem for problem in (ended, self._store_problem, self._mirror_problem) if problem]

    async def append(self, draft: Draft) -> Ack:
        limit = self._limit if draft.reserved else self._limit - self._limit // RESERVED_SHARE
        if self._waiting >= limit:
            raise ResourceExhausted("Too many events wait to be recorded; try again.", retry_after=0.2)
        answer: asyncio.Future[Ack] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                raise Unavailable("The audit service is stopping; the event was not recorded.")
            (self._reserved if draft.reserved else self._ordinary).append((draft, answer))
            self._wake.notify()
        self._waiting += 1
        return await answer

    async def find(self, writer: str, event_id: str) -> Record | None:
        return await self._loop.run_in_executor(self._find_thread, self._finds.find, writer, event_id)

    async def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        return await self._loop.run_in_executor(self._find_thread, self._finds.find_intent, writer, event_id)

    async def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        work = partial(self._pages.page, filter_, first=first, end=end, limit=limit, descending=descending)
        return await self._loop.run_in_executor(self._page_thread, work)

    async def grown(self, size: int) -> None:
        while self._size <= size:
            await self._growth.wait()

    async def stop(self) -> None:
        """Commits what waits, refuses the rest, and closes the files."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        for thread, reads in ((self._find_thread, self._finds), (self._page_thread, self._pages)):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)
            reads.close()
        self._mirror.close()
        self._store.close()

    # What follows runs in the writer thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._reserved or self._ordinary or self._stopping):
                    if not self._wake.wait(RETRY if self.problems() else None):
                        break
                batch = [*self._reserved, *self._ordinary]
                self._reserved.clear()
                self._ordinary.clear()
                if self._stopping and not batch:
                    return
            drafts = [draft for draft, _ in batch]
            try:
                answers = self._commit(drafts)
            except Exception as error:  # noqa: BLE001 - nothing may end this thread: every append would wait for ever
                answers = self._failed(error, drafts)
            self._tell(batch, answers)

    def _commit(self, drafts: Sequence[Draft]) -> Sequence[Ack | DomainError]:
        answers: Sequence[Ack | DomainError]
        lines: Sequence[bytes] = ()
        try:
            if self._store_problem:
                lines = self._store.recover()
                self._store_problem = ""
            committed = self._store.commit(drafts)
            answers, lines = committed.answers, [*lines, *committed.lines]
        except Exception as error:  # noqa: BLE001 - see _failed
            answers = self._failed(error, drafts)
        self._write_mirror(lines)
        return answers

    def _failed(self, error: Exception, drafts: Sequence[Draft]) -> Sequence[DomainError]:
        # Whatever it was, the transaction's fate is unknown: nobody is told "stored", and a writer that
        # asks again under the same id learns what became of it.
        cause = str(error) if isinstance(error, sqlite3.Error | OSError | StoreBroken) else "internal error"
        self._store_problem = f"store {self._store.path} cannot be written: {cause}"
        _report("commit failed", exc_info=error, events=len(drafts))
        return [Unavailable(_NOT_RECORDED) for _ in drafts]

    def _write_mirror(self, lines: Sequence[bytes]) -> None:
        behind = self._mirror.size + len(lines) < self._store.size
        if not (lines or behind):
            return
        try:
            self._mirror.catch_up(self._store.events(self._mirror.size) if behind else lines)
            self._mirror_problem = ""
        except (OSError, sqlite3.Error) as error:
            cause = getattr(error, "strerror", None) or error
            self._mirror_problem = f"{self._mirror.path} cannot be written: {cause}; events are safe in the store"
            _report("mirror failed", reason=str(error), behind=self._store.size - self._mirror.size)

    def _tell(self, batch: Sequence[_Waiting], answers: Sequence[Ack | DomainError]) -> None:
        size, checkpoint = self._store.size, self._store.checkpoint

        def tell() -> None:
            self._waiting -= len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, DomainError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            if size != self._size:
                self._size, self._checkpoint = size, checkpoint
                self._growth.set()
                self._growth.clear()

        self._loop.call_soon_threadsafe(tell)


def _report(event: str, **details: Any) -> None:
    """Logs where that is possible: the disk that is full may be the log's as well, and ``problems`` tells it too."""
    with suppress(Exception):
        log.error(event, **details)
