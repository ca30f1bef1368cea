"""Channels to other services: the client's certificate, the pinned server name, deadlines, errors mapped back."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import grpc
from grpc import aio

from services.common.config import PeerAddress, TlsFiles
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded, DomainError, Internal, Unavailable, from_code
from services.common.log import get_logger
from services.common.telemetry.rpc import asking, method_of
from services.common.telemetry.trace_context import traceparent
from services.common.tls import CertificateFiles

log = get_logger("client")

ERROR_METADATA = "kubegate-error"
"""Trailing metadata of every error that a handler sent, unlike those that gRPC makes of a lost connection."""

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # How long one attempt may take, whatever its name: a handshake across zones or on a busy machine is not a failure.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

Response_co = TypeVar("Response_co", covariant=True)


class Method(Protocol[Response_co]):
    """A unary method of a generated stub."""

    def __call__(self, request: Any, *, timeout: float, metadata: Any) -> Any: ...


class Peer:
    """Another service. Owns the channel; a rotated certificate is picked up by the next ``channel()``."""

    def __init__(self, name: str, address: PeerAddress, tls: TlsFiles) -> None:
        self.name = name
        self.address = address.address
        """``host:port``."""
        self._address = address
        self._files = CertificateFiles(tls)
        self._channel: aio.Channel | None = None
        self._retired: aio.Channel | None = None
        self._closing: set[asyncio.Future[None]] = set()

    def channel(self) -> aio.Channel:
        """The channel to use for a new call or stream. Calls on the one before go on until they end.

        Raises:
            Unavailable: the certificate files cannot be read.
        """
        if self._channel is None or self._files.changed():
            try:
                chain, key, ca = self._files.read()
            except OSError as error:
                if self._channel is not None:
                    # Half-replaced files: what works goes on working, the next call looks again.
                    return self._channel
                raise Unavailable("This service's own certificate cannot be read; its log says more.") from error
            self._retire()
            self._channel = aio.secure_channel(
                self._address.address,
                grpc.ssl_channel_credentials(ca, key, chain),
                options=[*_OPTIONS, ("grpc.ssl_target_name_override", self._address.server_name)],
            )
        return self._channel

    def _retire(self) -> None:
        """Keeps the channel for what is in flight on it, and closes the one retired before it."""
        previous, self._retired, self._channel = self._retired, self._channel, None
        if previous is not None:
            closing = asyncio.ensure_future(previous.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def problems(self) -> list[str]:
        """Why the peer cannot be asked now; empty while it is connected. Starts connecting where it is not."""
        state = self.channel().get_state(try_to_connect=True)
        return [] if state is grpc.ChannelConnectivity.READY else [f"{self.name} service: not connected"]

    async def unary(
        self,
        method: Callable[[aio.Channel], Any],
        request: Any,
        deadline: Deadline,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Any:
        """Calls one unary method; ``method`` picks it: ``lambda channel: AuthnServiceStub(channel).GetJwks``.

        Raises:
            DomainError: as the peer sent it; ``Unavailable`` where it cannot be reached.
        """
        timeout = deadline.child().remaining()
        with asking(method_of(type(request)), self.address):
            if position := traceparent():
                metadata = (*metadata, ("traceparent", position))
            try:
                return await method(self.channel())(request, timeout=timeout, metadata=tuple(metadata))
            except aio.AioRpcError as error:
                raise self.error(error) from None

    def error(self, error: aio.AioRpcError) -> DomainError:
        """The domain error behind an RPC error of this peer. Texts of the transport itself are for the log only."""
        code = error.code()
        if _sent_by_handler(error):
            return from_code(code.value[0], error.details() or "", retry_after(error))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"The {self.name} service did not answer in time.")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return Unavailable(f"The {self.name} service cannot be reached; nothing was done. Try again shortly.")
        log.error("call failed in the transport", peer=self.name, code=code.name, details=error.details())
        return Internal()

    async def close(self) -> None:
        """Closes every channel."""
        channels = [channel for channel in (self._retired, self._channel) if channel is not None]
        self._channel = self._retired = None
        for channel in channels:
            await channel.close()
        if self._closing:
            await asyncio.wait(self._closing)


def _sent_by_handler(error: aio.AioRpcError) -> bool:
    return any(key == ERROR_METADATA for key, _ in error.trailing_metadata() or ())


def retry_after(error: aio.AioRpcError) -> float | None:
    """Seconds to wait, as the server said in its trailing metadata."""
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and isinstance(value, str) and value.isdigit():
            return int(value) / 1000
    return None
