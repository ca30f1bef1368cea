"""The HTTPS listener: uvicorn with h11 on a TLS context, a socket and connections of our own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import uvicorn

from services.common.log import get_logger
from services.common.runtime import StartupError
from services.mcp_core.edge.connections import Acceptor, ConnectionLimits, EdgeConnection, Malformed
from services.mcp_core.edge.guard import MAX_HEADER_BYTES
from services.mcp_core.edge.wire import Receive, Response, Scope, Send

GRACE_SECONDS = 35.0
"""How long requests in flight may take to finish when the process stops, by default: longer than any request may."""

GOODBYE_SECONDS = 0.5
"""How long a connection that is idle when the process stops may still ask: its client has not heard that it ends."""

_CLOSE = (b"connection", b"close")

# RFC 9325: forward secrecy and AEAD only; TLS 1.3 has no other suites.
_TLS12_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"

log = get_logger("server")


def tls_context(cert_file: Path, key_file: Path, client_ca_file: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3, or 1.2 with AEAD suites; HTTP/1.1. With ``client_ca_file`` a client may show a certificate of these
    authorities; one of others ends the handshake.

    Raises:
        StartupError: the pair, or the authorities, cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "unreadable"
        raise StartupError(
            f"tls: {cert_file} and {key_file} are not a certificate and its key ({reason}); "
            "`kubegate up` makes them anew where they are missing"
        ) from error
    if client_ca_file is not None:
        try:
            context.load_verify_locations(client_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise StartupError(
                f"client_ca_file: {client_ca_file} is no readable PEM file of certification authorities"
            ) from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def bind(listen: str) -> socket.socket:
    """A bound socket for ``host:port``.

    Raises:
        StartupError: the port is in use, or the address is not this machine's.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {port} of {host} is in use; stop what listens there, or choose another one: "
                "`kubegate up --port N`, or `listen` in the configuration"
            ) from error
        raise StartupError(
            f"cannot listen on {listen}: {getattr(error, 'strerror', None) or error}; choose another address with "
            "`listen` in the configuration, or another port with `kubegate up --port N`"
        ) from error
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn, but for accepting."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        context: ssl.SSLContext,
        limits: ConnectionLimits,
        malformed: Malformed,
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._malformed = malformed
        self._acceptor = Acceptor(listener, context, limits, self._connection)
        self._accepting: asyncio.Task[None] | None = None

    def _connection(self, left: Callable[[], None]) -> EdgeConnection:
        return EdgeConnection(
            limits=self._limits,
            left=left,
            malformed=self._malformed,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = []
        for listener in sockets or []:
            listener.listen(self.config.backlog)
        self._accepting = asyncio.create_task(self._acceptor.run())
        self._accepting.add_done_callback(self._accepted_last)
        self.started = True

    def _accepted_last(self, task: asyncio.Task[None]) -> None:
        # A server that accepts nothing is no server: the process ends, and whoever runs it starts it anew.
        self.should_exit = True
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("accepting ended", exc_info=error)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Every call that was sent is answered: who waits to be accepted is, each answer says that it is its
        connection's last (RFC 9112, section 9.6), and only then the idle ones are closed."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait({self._accepting})
        self._acceptor.finish()
        self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        for connection in self.server_state.connections:
            if isinstance(connection, EdgeConnection):
                connection.announce_end(_CLOSE)
        end = asyncio.get_running_loop().time() + GOODBYE_SECONDS
        while asyncio.get_running_loop().time() < end and (self.server_state.connections or self._acceptor.busy):
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)
        self._acceptor.abandon()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # services.common.runtime owns the signals of the process.
        yield


class App(Protocol):
    """An ASGI app that knows what to say to bytes that are no request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def malformed(self, address: str, status: int) -> tuple[str, Response]:
        """As ``Malformed``."""
        ...


class HttpsServer:
    """Serves one app on one socket."""

    def __init__(
        self,
        app: App,
        listener: socket.socket,
        context: ssl.SSLContext,
        limits: ConnectionLimits,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                loop="none",
                interface="asgi3",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=limits.idle,
                timeout_graceful_shutdown=math.ceil(grace),
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ),
            listener,
            context,
            limits,
            app.malformed,
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The bound host:port."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connections(self) -> int:
        """How many are open, their handshake done."""
        return len(self._server.server_state.connections)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    async def start(self) -> None:
        """Returns when connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise StartupError("the HTTPS server ended while it was starting")
            await asyncio.sleep(0.005)

    async def wait(self) -> None:
        """Returns when the server has ended."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Accepts nothing more and lets requests in flight finish, for ``grace`` seconds at most."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
