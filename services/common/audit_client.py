"""The way to the record: an append returns when audit has acknowledged it, durable and in the tree (R18).

Nothing may be executed or answered on an append that failed: callers let the error pass.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.common.clock import Clock, SystemClock
from services.common.deadline import Deadline
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    ResourceExhausted,
    Unavailable,
)
from services.common.grpc_client import Peer
from services.common.grpc_stream import StreamClient
from services.common.ids import uuid7
from services.common.telemetry.trace_context import CURRENT

LIMIT = 2048
"""Events in flight at most."""

FAILURE_SHARE = LIMIT // 4
"""Of these, folded failures: the rest stays free for intents and outcomes (R25)."""

FOLD_WINDOW = 0.25
"""Seconds during which failures of one key become one event."""


@dataclass(slots=True)
class _Fold:
    count: int = 1
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AuditClient:
    """Appends events over one stream; safe for many tasks of one event loop."""

    def __init__(self, audit: Peer, clock: Clock | None = None, *, patience: float = 2.0) -> None:
        """``patience``: seconds for which an append is sent again, under the same id, after a broken stream."""
        self._audit = audit
        self._clock = clock or SystemClock()
        self._stream: StreamClient[audit_pb2.AppendRequest, audit_pb2.AppendResponse] = StreamClient(
            audit,
            lambda channel: audit_pb2_grpc.AuditServiceStub(channel).AppendStream,
            audit_pb2.AppendStreamRequest,
            audit_pb2.AppendItem,
            patience=patience,
            limit=LIMIT,
        )
        self._folds: dict[tuple[str, ...], _Fold] = {}
        self._flushing: set[asyncio.Task[None]] = set()

    async def append(self, event: audit_pb2.Event, *, principal_token: str = "", deadline: Deadline) -> str:
        """Records an event and returns its id; fills ``event_id`` and ``timestamp`` where they are absent.

        Raises:
            Unavailable, ResourceExhausted, DeadlineExceeded: it is not known to be durable.
            DomainError: audit refused it, for instance as a type that this writer may not write (R22).
        """
        if not event.event_id:
            event.event_id = uuid7()
        if not event.HasField("timestamp"):
            event.timestamp.CopyFrom(timestamp(self._clock.now()))
        if not event.trace_id and (here := CURRENT.get()) is not None:
            event.trace_id = here.trace_id
        request = audit_pb2.AppendRequest(event=event, principal_token=principal_token)
        await self._stream.ask(request, deadline, event.request_id)
        return event.event_id

    async def append_folded(self, key: tuple[str, ...], event: audit_pb2.Event, *, deadline: Deadline) -> None:
        """Records a failure. Those with the same key within the window become one event whose metadata
        ``count`` says how many; each caller still waits until it is durable (R25).

        Raises:
            DomainError: as ``append``; ``ResourceExhausted`` where too many failures of others wait.
        """
        fold = self._folds.get(key)
        if fold is not None:
            fold.count += 1
        else:
            if len(self._flushing) >= FAILURE_SHARE:
                raise ResourceExhausted(
                    "Too many failed attempts are being recorded; try again later.",
                    retry_after=1,
                )
            fold = self._folds[key] = _Fold()
            task = asyncio.create_task(self._flush(key, fold, event))
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)
        try:
            async with asyncio.timeout(deadline.remaining()):
                await asyncio.shield(fold.done)
        except TimeoutError:
            raise DeadlineExceeded("The audit service did not answer in time.") from None

    async def _flush(self, key: tuple[str, ...], fold: _Fold, event: audit_pb2.Event) -> None:
        try:
            await asyncio.sleep(FOLD_WINDOW)
            del self._folds[key]
            event.metadata["count"] = str(fold.count)
            await self.append(event, deadline=Deadline.after(5))
        except (DomainError, asyncio.CancelledError) as error:
            cause = error if isinstance(error, DomainError) else Unavailable("This service is stopping.")
            fold.done.set_exception(cause)
            # Waiters may all be gone; the error is theirs, not the loop's.
            fold.done.exception()
        else:
            fold.done.set_result(None)

    def problems(self) -> list[str]:
        """Why events cannot be recorded; empty while audit is connected."""
        return self._audit.problems()

    async def close(self) -> None:
        """Ends the stream; what is in flight fails."""
        for task in self._flushing:
            task.cancel()
        await self._stream.close()


def timestamp(moment: datetime) -> Timestamp:
    """A datetime as a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
