"""The gRPC server of every service: mTLS 1.3, callers allowed per method, deadlines, one error table.

Who may call a method is written beside it in the protos (option ``kubegate.common.v1.callers``); a method
without the option may be called by nobody (R7).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.common.v1 import options_pb2
from services.common.call import CURRENT, Call, current_call
from services.common.config import TlsFiles
from services.common.deadline import Deadline
from services.common.errors import Code, DomainError, Internal, PermissionDenied
from services.common.grpc_client import ERROR_METADATA
from services.common.log import get_logger
from services.common.runtime_errors import StartupError
from services.common.telemetry.bounded import Bounded
from services.common.telemetry.metrics import SECURITY_VIOLATIONS
from services.common.telemetry.rpc import answering
from services.common.tls import matches, peer_path, server_credentials

__all__ = ["NOTICES_METADATA", "PROBLEMS_METADATA", "GrpcServer", "current_call", "matches", "method_callers"]

PROBLEMS_METADATA = "kubegate-problems-bin"
"""Trailing metadata of a health check: what is missing, one UTF-8 line each."""

NOTICES_METADATA = "kubegate-notices-bin"
"""The same of a service that serves: what an operator should know."""

UNARY_LIMIT = 30.0
"""Seconds that a unary call may take when its caller named no deadline or a longer one."""

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
known_peer = Bounded(64)
"""Peers by name in metrics: those of a mesh are few."""

_MESH = ("service/*", "operator/*", "platform/*")
_ABANDONING: set[asyncio.Future[None]] = set()

_STATUS = {code: status for code in Code for status in grpc.StatusCode if status.value[0] == code}

log = get_logger("grpc")


def method_callers(service: str) -> Mapping[str, Sequence[str]]:
    """The allow-list of each method of a service, keyed by gRPC path, read from its descriptor.

    Raises:
        LookupError: a method names no callers.
    """
    descriptor = descriptor_pool.Default().FindServiceByName(service)
    callers: dict[str, Sequence[str]] = {}
    for method in descriptor.methods:
        allow = tuple(method.GetOptions().Extensions[options_pb2.callers].allow)
        if not allow:
            raise LookupError(f"{service}.{method.name} names no callers in its proto")
        callers[f"/{service}/{method.name}"] = allow
    return callers


class GrpcServer:
    """Serves the services that were added, plus grpc.health.v1, to peers with a certificate of the mesh."""

    def __init__(
        self,
        listen: str,
        tls: TlsFiles,
        problems: Callable[[], list[str]],
        *,
        notices: Callable[[], list[str]] = list,
    ) -> None:
        """``problems`` tells what keeps the service from serving; an empty list means ready. ``notices`` tells
        what an operator should know although it serves.
        """
        self._listen = listen
        self._callers: dict[str, Sequence[str]] = {f"/{_HEALTH}/Check": _MESH}
        self._credentials = server_credentials(tls)
        self._stopping = asyncio.Event()
        self._server = aio.server(
            interceptors=[_Gate(self._callers, self._stopping)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 4 * 1024 * 1024),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(_Health(problems, notices), self._server)

    def add(self, register: Callable[[Any, Any], None], servicer: object, service: str) -> None:
        """Adds a servicer by its generated ``add_..._to_server`` and its full name."""
        self._callers.update(method_callers(service))
        register(servicer, self._server)

    async def start(self) -> int:
        """Binds and serves; returns the port.

        Raises:
            StartupError: the address cannot be bound.
        """
        try:
            port = self._server.add_secure_port(self._listen, self._credentials)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {self._listen}: the port is in use or the address is not this machine's; "
                "stop the other process or choose another address in the configuration"
            ) from error
        await self._server.start()
        return port

    async def until_stopped(self, grace: float) -> None:
        """Waits to be cancelled and then stops as ``stop`` does, while what its calls depend on still runs."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.stop(grace)

    async def stop(self, grace: float) -> None:
        """Refuses new calls and new items, and gives those in flight ``grace`` seconds."""
        self._stopping.set()
        await self._server.stop(grace)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    def __init__(self, problems: Callable[[], list[str]], notices: Callable[[], list[str]]) -> None:
        self._problems = problems
        self._notices = notices

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        problems = self._problems()
        if not problems:
            notices = self._notices()
            if notices:
                context.set_trailing_metadata(((NOTICES_METADATA, "\n".join(notices).encode()),))
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        context.set_trailing_metadata(((PROBLEMS_METADATA, "\n".join(problems).encode()),))
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


class _Gate(aio.ServerInterceptor):
    """Wraps each handler: an interceptor sees no peer, a handler does."""

    def __init__(self, callers: Mapping[str, Sequence[str]], stopping: asyncio.Event) -> None:
        self._callers = callers
        self._stopping = stopping

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        allow = self._callers.get(details.method)
        # What nobody may call, such as the rest of grpc.health.v1, is not there: UNIMPLEMENTED.
        if handler is None or allow is None:
            return None
        if handler.response_streaming:
            streaming = handler.stream_stream or handler.unary_stream
            build = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            wrapped: Any = _guard_stream(details.method, allow, streaming, self._stopping)
        elif handler.request_streaming:
            return None
        else:
            build = grpc.unary_unary_rpc_method_handler
            wrapped = _guard_unary(details.method, allow, handler.unary_unary)
        return build(wrapped, handler.request_deserializer, handler.response_serializer)


def _admit(method: str, allow: Sequence[str], context: Any) -> Call:
    peer = peer_path(context.auth_context())
    if not matches(peer, allow):
        log.warning("caller refused", method=method, peer=peer)
        SECURITY_VIOLATIONS.labels("caller_refused", known_peer(peer)).inc()
        raise PermissionDenied(f"{peer} may not call {method}.")
    remaining = context.time_remaining()
    seconds = UNARY_LIMIT if remaining is None else min(remaining, UNARY_LIMIT)
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(peer, Deadline.after(seconds), metadata, metadata.get("request-id", ""))


def public_error(error: BaseException, method: str) -> DomainError:
    """The error to send: itself if it is one of ours, else ``Internal`` with the rest in the log."""
    if isinstance(error, DomainError):
        return error
    log.error("unexpected error", method=method, exc_info=error)
    return Internal()


async def _abort(context: Any, error: DomainError) -> None:
    metadata = [(ERROR_METADATA, error.code.name)]
    if error.retry_after is not None:
        metadata.append(("retry-after-ms", str(int(error.retry_after * 1000))))
    await context.abort(_STATUS[error.code], error.public_message, tuple(metadata))


def _abandon(context: Any, error: DomainError) -> None:
    task = asyncio.ensure_future(_abort(context, error))
    _ABANDONING.add(task)
    task.add_done_callback(_abandoned)


def _abandoned(task: asyncio.Future[None]) -> None:
    _ABANDONING.discard(task)
    if not task.cancelled():
        task.exception()  # That it raises says that it is done.


def _guard_unary(method: str, allow: Sequence[str], handler: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    name = method.removeprefix("/")

    async def guarded(request: Any, context: Any) -> Any:
        try:
            call = _admit(method, allow, context)
            CURRENT.set(call)
            with answering(name, call.metadata.get("traceparent", "")):
                return await handler(request, context)
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that maps whatever escapes a handler
            await _abort(context, public_error(error, method))

    return guarded


def _guard_stream(
    method: str, allow: Sequence[str], handler: Callable[[Any, Any], AsyncIterator[Any]], stopping: asyncio.Event
) -> Any:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            abandon = partial(_abandon, context)
            CURRENT.set(replace(_admit(method, allow, context), stopping=stopping, abandon=abandon))
            async for response in handler(request, context):
                yield response
        except (asyncio.CancelledError, aio.AbortError, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that maps whatever escapes a handler
            await _abort(context, public_error(error, method))

    return guarded
