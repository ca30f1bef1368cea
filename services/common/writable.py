"""Whether a store can be written, found out by writing to it before somebody's change does."""

import asyncio
from collections.abc import Awaitable, Callable

from services.common.errors import DomainError

PERIOD = 15.0
"""Seconds between two trials."""


class WritableProbe:
    """Writes something that changes nothing, now and then; run ``keep``."""

    def __init__(self, write: Callable[[], Awaitable[object]]) -> None:
        """``write`` commits a real transaction; it raises a DomainError where that fails."""
        self._write = write
        self._problem = ""

    def problems(self) -> list[str]:
        """Why changes would fail; empty while they would not."""
        return [self._problem] if self._problem else []

    async def keep(self) -> None:
        """Tries until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Tries once."""
        try:
            await self._write()
        except DomainError as error:
            self._problem = f"store: {error.public_message}"
        else:
            self._problem = ""
