"""The port for conditions: what the engine asks of an expression, and what an expression may read.

An expression that cannot be evaluated has no answer. The caller decides what that means: a grant whose
condition has no answer grants nothing, a deny rule whose condition has no answer denies.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

MAX_TEXT = 1_000
"""Longest expression, in characters."""


class Condition(Protocol):
    """A compiled expression. Two conditions with the same text are equal."""

    @property
    def text(self) -> str:
        """The expression as written."""
        ...

    @property
    def volatile(self) -> bool:
        """Whether it reads the time or the source of a request, so that its answer may not be cached (R11)."""
        ...

    def holds(self, values: Mapping[str, Any]) -> bool | None:
        """Its answer over the values of one request; None where it has none."""
        ...


class InvalidCondition(ValueError):
    """An expression is unusable; the message says why and where in it."""


CompileCondition = Callable[[str], Condition]
"""Compiles an expression, or raises ``InvalidCondition``."""
