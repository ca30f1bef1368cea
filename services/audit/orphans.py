"""Intents without outcomes: reported at start and while running, as unknown (R21).

An intent is an orphan only when its recorded deadline plus a grace has passed; until then its outcome may be
under way. However large the log, each record is looked at once: what is open then is remembered until its time is over.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from services.audit.event import rfc3339
from services.audit.ports import Orphan
from services.common.clock import Clock
from services.common.deadline import OUTCOME_GRACE
from services.common.errors import DomainError
from services.common.log import get_logger
from services.common.telemetry.metrics import AUDIT_ORPHANS

PERIOD = 60.0
"""Seconds between two looks."""

NAMED = 20
"""Orphans named one by one in a report; the count has all."""

log = get_logger("audit.orphans")


class Intents(Protocol):
    """Finds intents without outcomes; may block."""

    def unfinished(self, after: Mapping[str, int]) -> tuple[Sequence[Orphan], Mapping[str, int]]:
        """Those among the next records, and where to go on; the same positions where nothing is left."""
        ...

    def without_outcome(self, intents: Sequence[Orphan]) -> Sequence[Orphan]:
        """Those that are still without outcome."""
        ...


class OrphanWatch:
    """Reports each orphan once in the life of the process."""

    def __init__(self, intents: Intents, clock: Clock) -> None:
        self._intents = intents
        self._clock = clock
        self._looked: Mapping[str, int] = {}
        self._open: dict[tuple[str, str], Orphan] = {}
        """(writer, event_id) -> an intent that had no outcome and whose time was not over."""

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
            await self._read_on()
            before = rfc3339(self._clock.now() - OUTCOME_GRACE)
            due = {key: each for key, each in self._open.items() if each.deadline < before}
            fresh = await asyncio.to_thread(self._intents.without_outcome, list(due.values())) if due else ()
        except DomainError as error:
            log.warning("intents without outcome not looked for", reason=error.public_message)
            return ()
        for key in due:
            del self._open[key]
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

    async def _read_on(self) -> None:
        while True:
            found, looked = await asyncio.to_thread(self._intents.unfinished, self._looked)
            if looked == self._looked:
                return
            self._open |= {(each.writer, each.event_id): each for each in found}
            self._looked = looked
