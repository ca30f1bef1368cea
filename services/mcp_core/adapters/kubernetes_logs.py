"""A log while it is written: read as it comes, for a bounded time at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import aiohttp


class FollowedLog:
    """The answer of a request that stays open (ports.LogStream). ``failures``: makes ours of what goes wrong."""

    def __init__(self, content: aiohttp.StreamReader, failures: Callable[[], AbstractContextManager[None]]) -> None:
        self._content = content
        self._failures = failures

    async def read(self, seconds: float) -> bytes | None:
        """What has come within that time; None at the end."""
        with self._failures():
            try:
                async with asyncio.timeout(seconds):
                    return await self._content.readany() or None
            except TimeoutError:
                return b""
