"""Which trace the running task belongs to (W3C Trace Context, level 1). Costs nothing where no trace is recorded."""

import random
import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

# Section 3.2: version ff and all-zero ids are invalid; versions to come may append fields.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A position in a trace. Ids are lower-case hex digits, 32 of the trace and 16 of the span."""

    trace_id: str
    span_id: str
    sampled: bool = False

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The context in a ``traceparent``; ``None`` where it is not one."""
        found = _TRACEPARENT.fullmatch(text) if len(text) < 512 else None
        if found is None or (found["version"] == "00" and found["more"]):
            return None
        return cls(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))

    def header(self) -> str:
        """As a ``traceparent``."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def new_span_id() -> str:
    """A random span id, never zero. Not a secret."""
    return f"{random.getrandbits(64) or 1:016x}"


CURRENT: ContextVar[TraceContext | None] = ContextVar("kubegate_trace", default=None)
"""Where the running task is. A task that outlives its request and serves others starts in a context of its own."""


def traceparent() -> str:
    """The current position, for whoever is asked next; "" outside a trace."""
    here = CURRENT.get()
    return here.header() if here is not None else ""
