"""Calls between services as spans and durations: the same for unary calls and for items of a stream."""

import time
from functools import cache
from types import TracebackType
from typing import Any, Self

from prometheus_client import Histogram

from services.common.errors import DomainError
from services.common.telemetry.metrics import RPC_CLIENT, RPC_SERVER
from services.common.telemetry.trace_context import TraceContext
from services.common.telemetry.tracing import NO_SPAN, NoSpan, Span, entering, recording, span

_METHODS: dict[Any, str] = {}


def method_of(message: type[Any]) -> str:
    """The fully-qualified name of the method that takes or returns a type: ``kubegate.authz.v1.AuthzService/Check``.

    Raises:
        LookupError: none in its file does.
    """
    known = _METHODS.get(message)
    if known is None:
        known = _METHODS[message] = _find(message.DESCRIPTOR)
    return known


def _find(descriptor: Any) -> str:
    for service in descriptor.file.services_by_name.values():
        for method in service.methods:
            if descriptor in (method.input_type, method.output_type):
                return f"{service.full_name}/{method.name}"
    raise LookupError(f"{descriptor.full_name} belongs to no method of {descriptor.file.name}")


@cache
def _observed(histogram: Histogram, method: str, code: str) -> Any:
    return histogram.labels(method, code)


class Measured:
    """One call: a context manager, or ended by ``end``. An error that passes gives the status."""

    __slots__ = ("_began", "_histogram", "_method", "_span")

    def __init__(self, histogram: Histogram, method: str, made: Span | NoSpan) -> None:
        self._histogram = histogram
        self._method = method
        self._span = made
        self._began = time.perf_counter()

    def end(self, code: str, *, leave: bool = False) -> None:
        """The call has ended with a google.rpc code."""
        _observed(self._histogram, self._method, code).observe(time.perf_counter() - self._began)
        made = self._span
        if isinstance(made, Span):
            made.set({"rpc.response.status_code": code})
            if code != "OK":
                made.fail(code)
            if not leave:
                made.end()

    def __enter__(self) -> Self:
        self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(_code(error), leave=True)
        self._span.__exit__(None, None, None)


def asking(method: str, server: str) -> Measured:
    """A call to another service, seen from here. ``server``: its host and port."""
    made = span(method, "client")
    if made is not NO_SPAN:
        host, _, port = server.rpartition(":")
        made.set({"rpc.system.name": "grpc", "rpc.method": method, "server.address": host, "server.port": int(port)})
    return Measured(RPC_CLIENT, method, made)


def answering(method: str, traceparent: str) -> Measured:
    """A call that is being answered here, in its caller's trace where it has one."""
    if method.startswith("grpc."):
        # Health checks are asked every few seconds, and are nobody's request.
        return Measured(RPC_SERVER, method, NO_SPAN)
    made = entering(method, TraceContext.parse(traceparent) if traceparent else None, trusted=True)
    if isinstance(made, Span):
        made.set({"rpc.system.name": "grpc", "rpc.method": method})
    return Measured(RPC_SERVER, method, made)


def answering_item(method: str, traceparent: str) -> Measured:
    """As ``answering``, for an item that is answered together with others, and so in nobody's trace: where no span is
    recorded, nothing but its duration is."""
    return answering(method, traceparent) if recording() else Measured(RPC_SERVER, method, NO_SPAN)


def _code(error: BaseException | None) -> str:
    if error is None:
        return "OK"
    if isinstance(error, DomainError):
        return error.code.name
    if isinstance(error, TimeoutError):
        return "DEADLINE_EXCEEDED"
    return "INTERNAL" if isinstance(error, Exception) else "CANCELLED"
