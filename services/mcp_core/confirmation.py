"""Confirmations: a person is asked before something is destroyed (R16).

A safety prompt, not an authorization: whoever confirms goes through steps 1 to 4 again like everybody else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.mcp_core.errors import ConfirmationUnavailable
from services.mcp_core.model import Caller
from services.mcp_core.tools.base import Plan, Tool


class Way(StrEnum):
    """How whoever sent a call can be asked."""

    TOKEN = "token"
    """REST: 428 with a token that comes back as argument `confirm`."""
    STATE = "state"
    """MCP of 2026: `input_required`; the token is the sealed requestState."""
    ELICIT = "elicit"
    """MCP of 2025: elicitation while the call is held open."""
    NONE = "none"
    """Not at all: only policy may let such a client have a handle."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask, and what came back beside the arguments: the token with which it was asked, if it was confirmed."""

    way: Way = Way.NONE
    token: str = field(default="", repr=False)


class Confirmations:
    """Asks, and knows the answers."""

    async def require(self, caller: Caller, tool: Tool, plan: Plan, asking: Asking) -> None:
        """Returns where this very call was confirmed.

        Raises:
            ConfirmationUnavailable: this client cannot be asked.
        """
        raise ConfirmationUnavailable(plan.summary)
