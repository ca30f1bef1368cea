"""What one connection, and one source of connections, may hold of us before anybody is authenticated (R25).

TCP connections are accepted and counted here, before TLS, so that a source over its share costs neither a
handshake nor a place. A connection that does not finish its handshake, the head of a request, or the body that
nobody reads, and one that does not take its answer, is closed; uvicorn closes those that are idle in between.
What is no HTTP gets an answer of ours too, and is counted; a client certificate goes along with every request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from services.common.log import get_logger
from services.mcp_core.edge.limiter import source_of
from services.mcp_core.edge.wire import CLIENT_CERTIFICATE, Response

MAX_HEAD = 16 * 1024
"""Bytes of an incomplete head, unless the server's configuration says otherwise."""

PAUSE_SECONDS = 0.1
"""How long nothing is accepted after the system refused to hand out another connection."""

log = get_logger("connections")
_errors = logging.getLogger("uvicorn.error.kubegate")
_errors.setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Times are in seconds. ``most``: connections at once; ``per_source``: of these, from one address (IPv6: /64).

    handshake, head: for TLS and for the head of each request. idle: between two requests. linger: for a client to
    end a body that is not read, of at most ``unread`` bytes. stall: for a client to take its answer.
    """

    most: int = 1024
    per_source: int = 256
    handshake: float = 10.0
    head: float = 10.0
    idle: int = 30
    linger: float = 2.0
    stall: float = 30.0
    unread: int = 1024 * 1024


class Connections:
    """Counts the open connections. The table is bounded, since it holds only sources that have one open."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._of: Counter[str] = Counter()
        self._all = 0
        self._full = False
        self._refusing: set[str] = set()

    def enter(self, address: str) -> bool:
        """Takes a place, or says that there is none. One that was taken is to be given back by ``leave``."""
        source = source_of(address)
        if self._all >= self._limits.most:
            if not self._full:
                self._full = True
                log.warning("every connection is taken; none is accepted", open=self._all)
            return False
        if self._of[source] >= self._limits.per_source:
            if source not in self._refusing:
                self._refusing.add(source)
                log.warning("connections of a source refused", source=source, open=self._of[source])
            return False
        self._of[source] += 1
        self._all += 1
        return True

    def leave(self, address: str) -> None:
        source = source_of(address)
        self._of[source] -= 1
        self._all -= 1
        # Not as soon as one is free: a flood is one line of the log.
        self._full = self._full and self._all > self._limits.most // 2
        if self._of[source] <= self._limits.per_source // 2:
            self._refusing.discard(source)
        if self._of[source] <= 0:
            del self._of[source]


class Acceptor:
    """Accepts for one listening socket. ``protocol`` is given what to call at the end of its connection."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        limits: ConnectionLimits,
        protocol: Callable[[Callable[[], None]], asyncio.Protocol],
    ) -> None:
        self._listener = listener
        self._context = context
        self._limits = limits
        self._protocol = protocol
        self._open = Connections(limits)
        self._handshakes: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Accepts until cancelled; open connections live on, and handshakes go on."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                # Out of descriptors, or the client is gone already: the listener itself is sound.
                log.warning("cannot accept a connection", reason=error.strerror or type(error).__name__)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._enter(connection, address[0])

    def finish(self) -> None:
        """Takes those whom the system has connected already, and listens no more."""
        try:
            while True:
                connection, address = self._listener.accept()
                connection.setblocking(False)
                self._enter(connection, address[0])
        except OSError:
            # Nobody waits any more.
            self._listener.close()

    def abandon(self) -> None:
        """Ends the handshakes that are not over yet."""
        for task in self._handshakes:
            task.cancel()

    @property
    def busy(self) -> bool:
        """Whether handshakes are going on."""
        return bool(self._handshakes)

    def _enter(self, connection: socket.socket, address: str) -> None:
        if not self._open.enter(address):
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._begin(connection, address))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _begin(self, connection: socket.socket, address: str) -> None:
        place = _Place(self._open, address)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(place.leave),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake,
                ssl_shutdown_timeout=self._limits.linger,
            )
        except OSError:
            # No TLS, or not in time: there is nobody to answer.
            place.leave()
        except BaseException:
            place.leave()
            raise


class _Place:
    """A connection's place, given back once: by its end, or by that of its handshake."""

    def __init__(self, connections: Connections, address: str) -> None:
        self._connections = connections
        self._address = address
        self._taken = True

    def leave(self) -> None:
        if self._taken:
            self._taken = False
            self._connections.leave(self._address)


Malformed = Callable[[str, int], tuple[str, Response]]
"""Told the address of a client whose bytes are no request and the status that says so best, gives the request id and
the answer."""


class _Parser(h11.Connection):
    """h11's, which remembers with which status it refused."""

    status = 400

    def next_event(self) -> Any:
        try:
            return super().next_event()
        except h11.RemoteProtocolError as error:
            self.status = error.error_status_hint
            raise


class EdgeConnection(H11Protocol):
    """uvicorn's protocol with an end to every wait for the client. ``left`` is called when the connection is over."""

    conn: _Parser

    def __init__(
        self, *, limits: ConnectionLimits, left: Callable[[], None], malformed: Malformed, **settings: Any
    ) -> None:
        super().__init__(**settings)
        # uvicorn warns of every malformed request: a line of the log for whoever sends a byte. Ours are counted.
        self.logger = _errors
        self.conn = _Parser(h11.SERVER, self.config.h11_max_incomplete_event_size or MAX_HEAD)
        self._limits = limits
        self._left = left
        self._malformed = malformed
        self._refused = False
        self._patience: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if certificate:
            self.app_state = {**self.app_state, CLIENT_CERTIFICATE: certificate}
        self._wait(self._limits.head)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._patience, self._stall, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        try:
            super().connection_lost(exc)
        finally:
            self._left()

    def data_received(self, data: bytes) -> None:
        if not self._serving():
            self._unread += len(data)
        if not self._refused:
            super().data_received(data)
        if self._serving():
            self._unread = 0
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        elif self._unread > self._limits.unread:
            self.transport.abort()
        elif self._patience is None:
            # The first bytes of another head: what follows does not begin its time anew.
            self._wait(self._limits.head)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP request, or a body that is none: an answer like all others, and the connection ends."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.client is None:
            self.transport.abort()
            return
        request_id, response = self._malformed(self.client[0], self.conn.status)
        head = h11.Response(
            status_code=response.status,
            headers=[*response.head(request_id), (b"connection", b"close")],
            reason=HTTPStatus(response.status).phrase,
        )
        for event in (head, h11.Data(data=response.body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            # Nobody waits for its answer any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._refused = True
        # Closing at once would make the client's system throw the answer away with what it still sends.
        self._wait(self._limits.linger)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._serving() and self.conn.their_state is h11.SEND_BODY:
            # As above: the body that nobody reads has to end first.
            self._wait(self._limits.linger)

    def announce_end(self, close: tuple[bytes, bytes]) -> None:
        """The answer that is in the making says that it is the last one; those after it say so by themselves."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, close]

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.stall, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _serving(self) -> bool:
        return not self._refused and self.cycle is not None and not self.cycle.response_complete

    def _wait(self, seconds: float) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(seconds, self.transport.close)
