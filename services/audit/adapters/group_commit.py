"""Group commit: everything that waits goes into one transaction and one fsync.

Events come from the event loop; one thread writes. An append returns after the commit that holds it, and
after the mirror has been given its line. Intents and outcomes of the core have capacity of their own and go
first, so that a flood of other events cannot keep a running mutation from being recorded (R25); platform services
have the least.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from services.audit.adapters.batch import StoreBroken
from services.audit.adapters.commit_metrics import count_commit
from services.audit.adapters.engine import Store
from services.audit.adapters.mirror import Mirror
from services.audit.bounded import TooSlow
from services.audit.ports import Ack, Capacity, Count, Draft, Filter, Found, Hold, Proof, Record
from services.audit.proofs import Prover
from services.common.errors import DomainError, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from services.common.log import get_logger

RETRY = 1.0
"""Seconds after which a store or mirror that failed is tried again without being asked."""

_NOT_RECORDED = "The event could not be recorded, so nothing may be done on it. Try again."

_Answers = Sequence[Ack | DomainError]
_Waiting = tuple[Sequence[Draft], "asyncio.Future[_Answers]"]

T = TypeVar("T")

log = get_logger("audit.log")


class GroupCommitLog:
    """The port ``Log`` over a store, its mirror, and reading connections. Belongs to one event loop."""

    def __init__(self, store: Store, mirror: Mirror, *, queue_limit: int) -> None:
        self._store, self._mirror = store, mirror
        # One connection and thread each, so that no long query of an operator holds up an outcome's look-up.
        self._finds, self._pages = store.reads(), store.reads()
        self._find_thread, self._page_thread = (ThreadPoolExecutor(1, name) for name in ("audit-find", "audit-page"))
        self._limit = queue_limit
        self._loop = asyncio.get_running_loop()
        self._size, self._checkpoint = store.size, store.checkpoint
        self._growth = asyncio.Event()
        self._waiting = 0
        self._oldest = 0.0
        self._prover: Prover | None = None
        self._store_problem = ""
        self._mirror_problem = ""
        self._wake = threading.Condition()
        self._reserved: deque[_Waiting] = deque()
        self._ordinary: deque[_Waiting] = deque()
        self._retiring: deque[tuple[str, int, asyncio.Future[int]]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        return self._size

    @property
    def checkpoint(self) -> str:
        return self._checkpoint

    @property
    def waiting(self) -> int:
        """How many events wait for their commit."""
        return self._waiting

    @property
    def lag(self) -> float:
        """Seconds since which the oldest of them waits."""
        oldest = self._oldest
        return time.monotonic() - oldest if oldest else 0.0

    @property
    def mirror_behind(self) -> int:
        """How many events the mirror lacks."""
        return max(self._store.size - self._mirror.size, 0)

    def problems(self) -> list[str]:
        """Why events cannot be stored or mirrored; empty when they can."""
        ended = "" if self._stopping or self._thread.is_alive() else "the thread that writes has ended; restart audit"
        return [problem for problem in (ended, self._store_problem, self._mirror_problem) if problem]

    async def append(self, draft: Draft) -> Ack:
        (answer,) = await self.append_all((draft,))
        if isinstance(answer, DomainError):
            raise answer
        return answer

    async def append_all(self, drafts: Sequence[Draft]) -> _Answers:
        kinds: dict[Capacity, list[Draft]] = {}
        for draft in drafts:
            kinds.setdefault(draft.capacity, []).append(draft)
        if len(kinds) == 1:
            return await self._append_kind(drafts, drafts[0].capacity)
        answers = await asyncio.gather(*(self._append_kind(kind, capacity) for capacity, kind in kinds.items()))
        each = {capacity: iter(answer) for capacity, answer in zip(kinds, answers, strict=True)}
        return [next(each[draft.capacity]) for draft in drafts]

    async def _append_kind(self, drafts: Sequence[Draft], capacity: Capacity) -> _Answers:
        room = max(self._limit * capacity // Capacity.RESERVED - self._waiting, 0)
        taken = drafts[:room]
        refused = [
            ResourceExhausted("Too many events wait to be recorded; try again.", retry_after=0.2)
        ] * (len(drafts) - len(taken))  # fmt: skip
        if not taken:
            return refused
        answer: asyncio.Future[_Answers] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                raise Unavailable("The audit service is stopping; the event was not recorded.")
            (self._reserved if capacity is Capacity.RESERVED else self._ordinary).append((taken, answer))
            self._oldest = self._oldest or time.monotonic()
            self._wake.notify()
        self._waiting += len(taken)
        return [*await answer, *refused]

    async def find(self, writer: str, event_id: str) -> Record | None:
        return await self._find(self._finds.find, writer, event_id)

    async def find_intent(self, writer: str, event_id: str) -> tuple[Record | None, str | None]:
        return await self._find(self._finds.find_intent, writer, event_id)

    async def _find(self, find: Callable[[str, str], T], writer: str, event_id: str) -> T:
        try:
            return await self._loop.run_in_executor(self._find_thread, find, writer, event_id)
        except TooSlow as error:
            raise Unavailable("The audit store did not answer in time; try again shortly.") from error

    async def page(self, filter_: Filter, *, first: int, end: int, limit: int, descending: bool) -> Sequence[Record]:
        return await self._read(
            self._pages.page, filter_, first=first, end=end, limit=limit, descending=descending
        )  # fmt: skip

    async def search(self, filter_: Filter, *, cursor: str, bounds: str, limit: int, descending: bool) -> Found:
        return await self._read(
            self._pages.search, filter_, cursor=cursor, bounds=bounds, limit=limit, descending=descending
        )

    async def bounds(self) -> str:
        return await self._read(self._pages.bounds)

    async def narrowed(self, bounds: str, filter_: Filter) -> str:
        return await self._read(self._pages.narrowed, bounds, filter_)

    async def count(self, filter_: Filter, by: Sequence[str], bucket_seconds: int, limit: int) -> Sequence[Count]:
        return await self._read(self._pages.count, filter_, by, bucket_seconds, limit)

    async def inclusion(self, sequence: int) -> tuple[Record, Proof]:
        size, checkpoint = self._size, self._checkpoint
        if sequence >= size:
            raise NotFound(f"There is no event {sequence}; the log holds {size}.")

        def work() -> tuple[Record, Proof]:
            found = self._pages.page(Filter(), first=sequence, end=sequence + 1, limit=1, descending=False)
            if not found:
                raise NotFound(f"Event {sequence} was deleted by retention; its leaf hash stays in the tree.")
            return found[0], Proof(Prover(self._pages.nodes, size).inclusion(sequence), checkpoint)

        return await self._read(work)

    async def inclusions(self, sequences: Sequence[int], size: int) -> Sequence[Sequence[bytes]]:
        # Kept from page to page of an export, for neighbours share most of their path.
        if self._prover is None or self._prover.size != size:
            self._prover = Prover(self._pages.nodes, size)
        prover = self._prover
        return await self._read(lambda: [prover.inclusion(sequence) for sequence in sequences])

    async def consistency(self, old_size: int) -> Proof:
        size, checkpoint = self._size, self._checkpoint
        if old_size > size:
            raise InvalidArgument(f"The log holds {size} events; it was never as large as {old_size}.")
        return Proof(await self._read(lambda: Prover(self._pages.nodes, size).consistency(old_size)), checkpoint)

    async def _read(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        return await self._loop.run_in_executor(self._page_thread, partial(work, *args, **options))

    async def grown(self, size: int) -> None:
        while self._size <= size:
            await self._growth.wait()

    @property
    def first(self) -> int:
        return self._store.first

    async def retire(self, until: str, most: int) -> int:
        done: asyncio.Future[int] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                raise Unavailable("The audit service is stopping; nothing was deleted.")
            self._retiring.append((until, most, done))
            self._wake.notify()
        return await done

    async def retired(self, first: int, most: int) -> Sequence[bytes]:
        return await self._read(self._pages.retired, first, most)

    async def tombstone(self) -> str:
        return await self._read(self._pages.tombstone)

    async def holds(self) -> Sequence[Hold]:
        return await self._read(self._pages.holds)

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
                while not (self._reserved or self._ordinary or self._retiring or self._stopping):
                    if not self._wake.wait(RETRY if self.problems() else None):
                        break
                batch = [*self._reserved, *self._ordinary]
                self._reserved.clear()
                self._ordinary.clear()
                retiring = [*self._retiring]
                self._retiring.clear()
                taken_at = time.monotonic()
                if self._stopping and not (batch or retiring):
                    return
            drafts = [draft for drafts, _ in batch for draft in drafts]
            began = time.perf_counter()
            try:
                answers = self._commit(drafts)
            except Exception as error:  # noqa: BLE001 - nothing may end this thread: every append would wait for ever
                answers = self._failed(error, drafts)
            if drafts:
                count_commit(drafts, answers, time.perf_counter() - began)
            self._tell(batch, answers, taken_at)
            for until, most, future in retiring:
                self._retire(until, most, future)

    def _retire(self, until: str, most: int, future: "asyncio.Future[int]") -> None:
        error: DomainError | None = None
        count = 0
        try:
            if self._store_problem:
                raise Unavailable("The audit store cannot be written; nothing was deleted.")
            count = self._store.retire(until, most)
        except DomainError as refusal:
            error = refusal
        except Exception as failure:  # noqa: BLE001 - see _failed
            self._failed(failure, ())
            error = Unavailable("The audit store could not delete events; it is opened anew, then try again.")
        if not count:
            self._cut_mirror()

        def tell() -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(count)

        self._loop.call_soon_threadsafe(tell)

    def _cut_mirror(self) -> None:
        """When all that is to be deleted is, for it rewrites the file. What fails is done at the next time or start."""
        if self._mirror.first >= self._store.first or self._mirror.size < self._store.first:
            return
        try:
            self._mirror.cut(self._store.first)
        except OSError as error:
            _report("deleted events stay in the mirror for now", reason=str(error))

    def _commit(self, drafts: Sequence[Draft]) -> _Answers:
        answers: _Answers
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
        cause = str(error) if isinstance(error, OSError | StoreBroken | self._store.errors) else "internal error"
        self._store_problem = f"store {self._store.name} cannot be written: {cause}"
        _report("commit failed", exc_info=error, events=len(drafts))
        return [Unavailable(_NOT_RECORDED) for _ in drafts]

    def _write_mirror(self, lines: Sequence[bytes]) -> None:
        behind = self._mirror.size + len(lines) < self._store.size
        if not (lines or behind):
            return
        try:
            self._mirror.catch_up(self._store.events(self._mirror.size) if behind else lines)
            self._mirror_problem = ""
        except (OSError, self._store.errors, DomainError) as error:
            cause = getattr(error, "strerror", None) or error
            self._mirror_problem = f"{self._mirror.path} cannot be written: {cause}; events are safe in the store"
            _report("mirror failed", reason=str(error), behind=self._store.size - self._mirror.size)

    def _tell(self, batch: Sequence[_Waiting], answers: _Answers, taken_at: float) -> None:
        size, checkpoint = self._store.size, self._store.checkpoint

        def tell() -> None:
            at = 0
            for drafts, future in batch:
                if not future.done():
                    future.set_result(answers[at : at + len(drafts)])
                at += len(drafts)
            self._waiting -= at
            # What still waits came after this batch was taken.
            self._oldest = taken_at if self._waiting else 0.0
            if size != self._size:
                self._size, self._checkpoint = size, checkpoint
                self._growth.set()
                self._growth.clear()

        self._loop.call_soon_threadsafe(tell)


def _report(event: str, **details: Any) -> None:
    """Logs where that is possible: the disk that is full may be the log's as well, and ``problems`` tells it too."""
    with suppress(Exception):
        log.error(event, **details)
