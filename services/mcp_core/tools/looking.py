"""Looking again and again until something is as wanted, while policy still allows it (R19)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.mcp_core.tools.base import Invocation

PAUSE = 1.0
"""Seconds between two looks; policy is asked again before each, so that a revocation ends the wait."""

RESERVE = 0.5
"""Seconds before the call's deadline at which the wait gives up, to say what it last saw."""

MAX_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look saw. met: it is as wanted. over: it will not become so by itself."""

    met: bool
    message: str
    over: bool = False


async def look_until(invocation: Invocation, look: Callable[[], Awaitable[Seen]], seconds: float) -> tuple[Seen, int]:
    """Looks until it is as wanted, is over or the time is up: what was last seen, and how many looks that took.

    Each look is told to a client that wants to hear of progress.

    Raises:
        PermissionDenied, Unauthenticated: policy no longer allows the call. DomainError: of a look.
    """
    loop = asyncio.get_running_loop()
    if invocation.deadline is not None:
        seconds = min(seconds, invocation.deadline.remaining() - RESERVE)
    end = loop.time() + seconds
    looks = 0
    while True:
        seen = await look()
        looks += 1
        await invocation.progress(looks, None, seen.message)
        if seen.met or seen.over or loop.time() + PAUSE > end:
            return seen, looks
        await asyncio.sleep(PAUSE)
        await invocation.still_allowed()
