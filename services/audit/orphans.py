"""Intents without outcomes: reported at start and while running, as unknown (R21).

An intent is an orphan only when its recorded deadline plus a grace has passed; until then its outcome may be
under way.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from services.audit.ports import Orphan
from services.common.clock import Clock
from services.common.errors import DomainError
from services.common.log import get_logger
from services.common.telemetry.metrics import AUDIT_ORPHANS

GRACE = timedelta(seconds=180)
"""Time that an outcome may take on its way after the deadline of its intent: the core sends it again for two minutes
(R20). After it the outcome is no longer taken, so what is reported as unknown stays unknown."""

PERIOD = 60.0
"""Seconds between two looks."""

NAMED = 20
"""Orphans named one by one in a report; the count has all."""

log = get_logger("audit.orphans")


class Intents(Protocol):
    """Finds intents without outcomes; may block."""

    def orphans(self, before: datetime) -> Sequence[Orphan]:
        """Those whose deadline lay before a time."""
        ...


class OrphanWatch:
    """Reports each orphan once in the life of the process."""

    def __init__(self, intents: Intents, clock: Clock) -> None:
        self._intents = intents
        self._clock = clock
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Looks at once, then periodically, until cancelled. A look that fails is the next one's business: nothing
        is lost by it, so it does not end the service."""
        while True:
            try:
                await self.look()
            except Exception as error:
                with suppress(Exception):
                    log.error("intents without outcome cannot be looked for", exc_info=error)
            await asyncio.sleep(PERIOD)

    async def look(self) -> Sequence[Orphan]:
        """Reports the orphans that were not reported before, and returns them."""
        try:
            found = await asyncio.to_thread(self._intents.orphans, self._clock.now() - GRACE)
        except DomainError as error:
            log.warning("intents without outcome not looked for", reason=error.public_message)
            return ()
        fresh = [orphan for orphan in found if orphan.event_id not in self._reported]
        self._reported |= {orphan.event_id for orphan in fresh}
        AUDIT_ORPHANS.inc(len(fresh))
        if fresh:
            log.warning(
                "intents without outcome: it is unknown whether they were executed",
                count=len(fresh),
                next_step="`kubegate audit orphans` says of each what the cluster says now",
            )
        for orphan in fresh[:NAMED]:
            log.warning(
                "intent without outcome",
                sequence=orphan.sequence,
                event_id=orphan.event_id,
                user=orphan.user,
                action=orphan.action,
                request_id=orphan.request_id,
                deadline=orphan.deadline,
            )
        return fresh
