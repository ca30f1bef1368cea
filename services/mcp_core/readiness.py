"""Whether the core can do its work now, and in words what is missing. Asked, not watched: it heals by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.log import get_logger

FRESH_SECONDS = 1.0
"""How long an answer is given again without asking anew: /readyz is open to anybody."""

KEEP_SECONDS = 5.0
"""Between two looks for whoever asks without waiting, while nothing is missing."""

PROBE_SECONDS = 3.0

Probe = Callable[[Deadline], Awaitable[None]]
"""Returns where its subject works; raises a DomainError with a public message where not."""

log = get_logger("readiness")


class Readiness:
    """Probes by the name of what they look at."""

    def __init__(self, probes: Mapping[str, Probe], clock: Clock) -> None:
        self._probes = probes
        self._clock = clock
        self._missing: Sequence[str] = ()
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def missing(self) -> Sequence[str]:
        """One line for each thing that is not there; empty when ready."""
        async with self._lock:
            if self._clock.monotonic() - self._asked_at >= FRESH_SECONDS:
                lines = await asyncio.gather(*(self._ask(name, probe) for name, probe in self._probes.items()))
                self._missing = [line for line in lines if line]
                self._asked_at = self._clock.monotonic()
            return self._missing

    @property
    def known(self) -> Sequence[str]:
        """What is known to be missing, without asking."""
        return self._missing

    def last(self) -> Sequence[str]:
        """What was missing when it was last asked."""
        return self._missing if self._asked_at > float("-inf") else ("not asked yet",)

    async def keep(self) -> None:
        """Asks every few seconds, and every one while something is missing, until cancelled: ``last`` is never old."""
        while True:
            missing = await self.missing()
            await asyncio.sleep(FRESH_SECONDS if missing else KEEP_SECONDS)

    async def _ask(self, name: str, probe: Probe) -> str:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await probe(Deadline.after(PROBE_SECONDS))
        except TimeoutError:
            return f"{name}: does not answer"
        except DomainError as error:
            return f"{name}: {error.public_message}"
        except Exception as error:
            log.error("readiness probe failed", subject=name, exc_info=error)
            return f"{name}: cannot be checked; see the log"
        return ""
