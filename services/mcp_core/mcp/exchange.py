"""One MCP request while the SDK serves it: who asks, what will be on record, and the work that ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from services.common.errors import DomainError
from services.common.telemetry.trace_context import TraceContext
from services.mcp_core.confirmation import ConfirmationNeeded
from services.mcp_core.errors import ActionDenied, InputRequired
from services.mcp_core.mcp.messages import INVALID
from services.mcp_core.model import Caller, Result

T = TypeVar("T")

STATE = "kubegate.exchange"
"""Key of the Exchange in the scope's state."""

Needed = ConfirmationNeeded | InputRequired
"""What a call asks first."""

Key = tuple[Any, ...]


@dataclass(slots=True)
class Exchange:
    """One HTTP request.

    action, result, error, violation: for its record; recorded: the pipeline has written that, or will whatever happens.
    modern: of 2026-07-28 or newer, by the header, as the SDK routes. number: the JSON-RPC id. streamed: the answer
    may be a stream of events. handled: a handler of ours, or the SDK's routing, has seen it. step_up: a denial that
    the client can have lifted by its authorization server, which takes an HTTP 403 (MCP authorization). can: what the
    client of an older revision can be asked; question: what it is to be asked, in the place of its answer. token: its
    name for progress; level: of the log messages that its client wants; None and "" where it wants none.
    """

    caller: Caller
    action: str = INVALID
    recorded: bool = False
    result: Result = Result.SUCCESS
    error: str = ""
    violation: str = ""
    modern: bool = False
    number: str | int | None = None
    streamed: bool = False
    handled: bool = False
    cancelled: bool = False
    step_up: ActionDenied | None = None
    can: frozenset[str] = frozenset()
    question: Needed | None = None
    token: types.ProgressToken | None = None
    level: str = ""
    _work: asyncio.Task[Any] | None = field(default=None, repr=False)

    def failed(self, error: DomainError) -> None:
        """Hears of every error of ours that becomes an answer."""
        if isinstance(error, ActionDenied) and error.scopes:
            self.step_up = error

    @property
    def client(self) -> Key:
        """The credential and the place that it came from: as near as one client gets without a session."""
        principal, source = self.caller.principal, self.caller.context.source
        return (principal.issuer, principal.subject, principal.credential_id, source.address, source.user_agent)

    @property
    def key(self) -> Key:
        """What a cancellation has to name: an id means nothing beyond the client."""
        return (*self.client, type(self.number), self.number)

    def trace(self, position: TraceContext | None) -> None:
        """The request's own trace, where its ``_meta`` names one: records name it."""
        context = self.caller.context
        if position is not None and position.trace_id != context.trace_id:
            self.caller = replace(self.caller, context=replace(context, trace_id=position.trace_id))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work that ends when the client goes away or cancels.

        Raises:
            MCPError: it was cancelled; nobody waits for this answer. What the work raises.
        """
        if self.cancelled:
            work.close()
            raise _cancelled()
        task: asyncio.Task[T] = asyncio.create_task(work)
        self._work = task
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            raise _cancelled() from None
        finally:
            self._work = None

    def cancel(self) -> None:
        """Ends the work behind this request. The pipeline records it."""
        self.cancelled = True
        if self._work is not None:
            self._work.cancel()


def _cancelled() -> MCPError:
    return MCPError(code=types.INVALID_REQUEST, message="The request was cancelled.")


def exchange_of(ctx: ServerRequestContext[Any, Any]) -> Exchange:
    """The exchange of the request that a handler serves: by the request itself, never by an id of the client's."""
    request: Any = ctx.request
    exchange: Exchange = request.scope["state"][STATE]
    return exchange


def sentence(error: DomainError, exchange: Exchange) -> str:
    """What the caller is told of an error."""
    return f"{error.public_message} (request id {exchange.caller.context.request_id})"
