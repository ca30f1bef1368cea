"""The lease of an authn that a test plays: nothing ends unless ``ends`` is told so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from kubegate.authn.v1 import authn_pb2
from kubegate.common.v1 import lease_pb2
from services.common.errors import Unavailable
from services.common.lease import serve_lease


class Leases:
    """Mix into a servicer of AuthnService. ``held`` cleared delays every answer; ``away`` refuses them."""

    _ends: list[tuple[str, int]]

    @property
    def ends(self) -> list[tuple[str, int]]:
        """(name, revision), oldest first."""
        if not hasattr(self, "_ends"):
            self._ends = []
        return self._ends

    @property
    def revision(self) -> int:
        return max([1, *(revision for _, revision in self.ends)])

    def end(self, name: str) -> None:
        """Ends a name at the next revision."""
        self.ends.append((name, self.revision + 1))

    away = False
    reset = False
    pings = 0

    @property
    def held(self) -> asyncio.Event:
        if not hasattr(self, "_held"):
            self._held = asyncio.Event()
            self._held.set()
        return self._held

    async def WatchRevocations(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in serve_lease(request_iterator, self._answer):
            yield response

    async def _answer(self, known: int) -> authn_pb2.WatchRevocationsResponse:
        self.pings += 1
        if self.away:
            raise Unavailable("The store does not answer.")
        response = authn_pb2.WatchRevocationsResponse(
            answer=lease_pb2.LeaseAnswer(revision=self.revision),
            ended=[name for name, revision in self.ends if revision > known],
            ended_revisions=[revision for _, revision in self.ends if revision > known],
            reset=self.reset,
        )
        await self.held.wait()
        return response
