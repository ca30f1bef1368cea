"""Spans, where a trace is sampled. Elsewhere ``span`` returns an object that does nothing.

The edge decides once for a whole trace; what follows finds the decision in the trace context. Spans hold names from
closed sets, numbers and request ids: no argument of a call, no credential, no text of an exception (R26).
"""

import secrets
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Protocol, Self

from services.common.errors import DomainError
from services.common.telemetry.trace_context import CURRENT, TraceContext, new_span_id

Attributes = Mapping[str, str | int | float | bool]


class Backend(Protocol):
    """What records spans; ``otlp`` is the only one."""

    trust_callers: bool

    def samples(self, trace_id: str) -> bool:
        """Whether a trace that begins here is recorded."""
        ...

    def start(self, name: str, kind: str, parent: TraceContext | None, attributes: Attributes, root: str) -> Any:
        """A started span: below ``parent``, or the first of the trace ``root``."""
        ...


_backend: Backend | None = None


def use(backend: Backend | None) -> None:
    """What records from now on; ``None``: nothing does."""
    global _backend  # noqa: PLW0603 - one per process, set by ``process``
    _backend = backend


class Span:
    """A span that is recorded. A context manager; an error that passes is noted by its code, never by its text."""

    __slots__ = ("_span", "_token", "context")

    def __init__(self, span: Any, context: TraceContext) -> None:
        self._span = span
        self._token: Token[TraceContext | None] | None = None
        self.context = context

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""
        for key, value in attributes.items():
            self._span.set_attribute(key, value)

    def fail(self, error_type: str) -> None:
        """Marks the span as failed; ``error_type`` is from a closed set."""
        self._span.set_attribute("error.type", error_type)
        self._span.failed()

    def link(self, other: TraceContext) -> None:
        """Refers to a position in another trace."""
        self._span.link(other)

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self.context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error_type(error))
        if self._token is not None:
            CURRENT.reset(self._token)
        self._span.end()


class NoSpan:
    """A span that nobody records. With a context, what is asked within it is told that, for the logs and records."""

    __slots__ = ("_token", "context")

    def __init__(self, context: TraceContext | None = None) -> None:
        self.context = context

    def set(self, attributes: Attributes) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass

    def link(self, other: TraceContext) -> None:
        pass

    def end(self) -> None:
        pass

    def __enter__(self) -> Self:
        if self.context is not None:
            self._token = CURRENT.set(self.context)
        return self

    def __exit__(self, *_: object) -> None:
        if self.context is not None:
            CURRENT.reset(self._token)


NO_SPAN = NoSpan()
_NOTHING: Attributes = {}


def recording() -> bool:
    """Whether spans are recorded at all."""
    return _backend is not None


def span(name: str, kind: str = "internal", attributes: Attributes = _NOTHING) -> Span | NoSpan:
    """A span below the current one. ``kind``: internal, server or client."""
    here = CURRENT.get()
    if here is None or not here.sampled or _backend is None:
        return NO_SPAN
    started = _backend.start(name, kind, here, attributes, here.trace_id)
    return Span(started, TraceContext(here.trace_id, started.span_id, sampled=True))


def entering(
    name: str, remote: TraceContext | None, attributes: Attributes = _NOTHING, *, trusted: bool
) -> Span | NoSpan:
    """The span of a request that comes from outside: in its caller's trace, or the first of a new one.

    ``trusted``: the caller's own decision on sampling counts, as between services.
    """
    trace_id = remote.trace_id if remote is not None else secrets.token_hex(16)
    if remote is not None and (trusted or (_backend is not None and _backend.trust_callers)):
        sampled = remote.sampled
    else:
        sampled = _backend is not None and _backend.samples(trace_id)
    if sampled and _backend is not None:
        started = _backend.start(name, "server", remote, attributes, trace_id)
        return Span(started, TraceContext(trace_id, started.span_id, sampled=True))
    # What passes on a trace that it does not record keeps the caller's position, where there is one.
    return NoSpan(TraceContext(trace_id, remote.span_id if remote is not None else new_span_id(), sampled))


def error_type(error: BaseException) -> str:
    """The kind of an error, from a closed set."""
    return error.code.name if isinstance(error, DomainError) else type(error).__name__
