"""Leases on another service's state, for caches that must learn of a change within a second (R12).

The client pings; the server answers each ping with its revision after a store read begun after that ping
arrived. The lease holds for ``TERM`` seconds from the moment at which the answered ping was *sent*, on a clock
that counts suspension. Nothing else extends it: a lost, silent or slow stream, a stopped process and a sleeping
machine all end it by themselves.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from grpc import aio

from kubegate.common.v1 import lease_pb2
from services.common.call import CURRENT
from services.common.clock import Clock, SystemClock
from services.common.grpc_client import Peer
from services.common.log import Outage, get_logger
from services.common.telemetry.metrics import LEASE_FRESH, LEASE_LOST, follow

TERM = 1.0
"""Seconds for which an answered ping vouches, counted from its sending."""

PERIOD = 0.25
"""Seconds between an answer and the next ping."""

PATIENCE = 2.0
"""Seconds after which an unanswered ping ends its stream."""

RETRY = 0.1
"""Seconds before a lost stream is opened again."""

MAX_AGE = 3600.0
"""Seconds after which a stream is opened anew, less a random tenth, so that it carries the newest certificate."""

log = get_logger("lease")


class Apply(Protocol):
    """Takes what an answer says into the cache, before the lease counts for it."""

    def __call__(self, response: Any) -> None: ...


class Lease:
    """The client's side. ``fresh()`` is asked at every read of a cache; reading is all it costs."""

    def __init__(
        self,
        peer: Peer,
        method: Callable[[aio.Channel], Any],
        request_type: Callable[..., Any],
        apply: Apply,
        clock: Clock | None = None,
    ) -> None:
        """``apply`` is called with each answer, in order; the cache drops there what the answer ends."""
        self._peer = peer
        self._method = method
        self._request_type = request_type
        self._apply = apply
        self._clock = clock or SystemClock()
        self._sent_at = float("-inf")
        self._sequence = 0
        self._held: Any = None
        """The stream whose answers count now."""
        self.revision = 0
        """The newest revision seen; what was computed under an older one must not be cached."""
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()
        self._outage = Outage(log, "lease stream lost", "lease held again", peer=peer.name)

    def fresh(self) -> bool:
        """Whether what is cached may be used now."""
        return self._clock.monotonic() - self._sent_at < TERM

    def problems(self) -> list[str]:
        """Why caches are off; empty while the lease holds."""
        return [] if self.fresh() else [f"{self._peer.name} service: no lease, caches are off"]

    async def wait(self, seconds: float) -> bool:
        """Whether the lease is fresh, or becomes so within ``seconds``: asks for a ping now. Waiting extends
        nothing; only the answer to a ping does."""
        if self.fresh():
            return True
        try:
            async with asyncio.timeout(seconds):
                while not self.fresh():
                    self._wanted.set()
                    await self._answered.wait()
        except TimeoutError:
            return self.fresh()
        return True

    async def keep(self) -> None:
        """Runs until cancelled: pings, applies answers, opens lost streams again."""
        LEASE_LOST.labels(self._peer.name)
        follow(LEASE_FRESH.labels(self._peer.name), lambda: float(self.fresh()))
        call: Any = None
        try:
            while True:
                renew_at = self._clock.monotonic() + MAX_AGE * random.uniform(0.9, 1.0)  # noqa: S311 - jitter
                try:
                    call = self._method(self._peer.channel())()
                    call.add_done_callback(partial(self._ended, call))
                    while self._clock.monotonic() < renew_at:
                        await self.ping(call)
                        self._hold(call)
                        await self._pause()
                    continue
                except Exception as error:  # noqa: BLE001 - whatever it is, the lease runs out and is tried again
                    self._lose(call)
                    self._outage.failed(cause=type(error).__name__)
                    LEASE_LOST.labels(self._peer.name).inc()
                await asyncio.sleep(RETRY)
        finally:
            self._lose(call)

    def _hold(self, call: Any) -> None:
        """A stream that has answered takes the place of the one before it, which held until now (make before break)."""
        old, self._held = self._held, call
        if old is not None and old is not call:
            old.cancel()

    def _ended(self, call: Any, _: object) -> None:
        # A stream that ends is known to be lost before the next ping finds out; one that was replaced is no loss.
        if call is self._held:
            self._sent_at = float("-inf")

    def _lose(self, call: Any) -> None:
        held, self._held = self._held, None
        self._sent_at = float("-inf")
        for each in (held, call):
            if each is not None:
                each.cancel()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(PERIOD):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def ping(self, call: Any) -> None:
        """One ping and its answer.

        Raises:
            TimeoutError: no answer in ``PATIENCE`` seconds, or one to another ping.
            AioRpcError: the stream is lost.
        """
        self._wanted.clear()
        self._sequence += 1
        sent_at = self._clock.monotonic()
        ping = lease_pb2.LeasePing(sequence=self._sequence, known_revision=self.revision)
        async with asyncio.timeout(PATIENCE):
            await call.write(self._request_type(ping=ping))
            response = await call.read()
        if response is aio.EOF or response.answer.sequence != self._sequence:
            raise TimeoutError
        self._apply(response)
        self.revision = max(self.revision, response.answer.revision)
        self._sent_at = sent_at
        self._outage.worked()
        self._answered.set()
        self._answered = asyncio.Event()


async def serve_lease(requests: AsyncIterator[Any], answer: Callable[[int], Awaitable[Any]]) -> AsyncIterator[Any]:
    """The server's side. ``answer`` takes the client's known revision, reads the store, and returns the
    response with ``answer.revision`` set; the sequence is filled in here. Ends when the server stops, for its
    client never would."""
    call = CURRENT.get(None)
    pings = aiter(requests)
    stopped = asyncio.ensure_future(call.stopping.wait() if call and call.stopping else asyncio.Event().wait())
    asked: asyncio.Future[Any] | None = None
    try:
        while True:
            asked = asyncio.ensure_future(anext(pings, None))
            await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
            request = asked.result() if asked.done() else None
            if request is None:
                return
            response = await answer(request.ping.known_revision)
            response.answer.sequence = request.ping.sequence
            yield response
    finally:
        stopped.cancel()
        if asked is not None:
            asked.cancel()
