"""What a handler may know of the call that it answers."""

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from services.common.deadline import Deadline
from services.common.errors import DomainError

PRINCIPAL_TOKEN_METADATA = "kubegate-principal-token"
"""Metadata key under which an operator's principal token travels (R15)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One unary call or one item of a stream. ``peer`` is a SPIFFE path such as ``service/mcp-core``."""

    peer: str
    deadline: Deadline
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    request_id: str = ""
    stopping: asyncio.Event | None = field(default=None, repr=False, compare=False)
    """Set when the server stops: a stream takes no more items then."""
    abandon: Callable[[DomainError], None] | None = field(default=None, repr=False, compare=False)
    """Ends a stream with an error from outside of its handler, which may wait for a peer that takes nothing."""


CURRENT: ContextVar[Call] = ContextVar("kubegate_call")


def current_call() -> Call:
    """The call being answered.

    Raises:
        LookupError: outside a handler.
    """
    return CURRENT.get()
