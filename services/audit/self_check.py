"""The record checks itself while it grows: what is stored against the signed roots that speak of it.

Each look takes the newest events and a window that wanders through the whole history: every record's own bytes must
hash to a leaf that leads to the newest signed root, and that root must extend the one of the look before. It finds
what somebody changes in the store of a running service; `kubegate audit verify` and a start check everything.
"""

import asyncio
from contextlib import suppress

from services.audit.checkpoint import BadCheckpoint, Checkpoint, root_text
from services.audit.keyring import KeyRing
from services.audit.merkle import BadProof, check_consistency, check_inclusion, leaf_hash
from services.audit.ports import Filter, Log, Proof
from services.common.clock import Clock
from services.common.errors import DomainError
from services.common.log import get_logger
from services.common.telemetry.metrics import AUDIT_CHECKED, AUDIT_CHECKS, AUDIT_INTACT

PERIOD = 30.0
"""Seconds between two looks."""

WINDOW = 256
"""Events of the history, and of the newest, in one look: about a million a day, and a few milliseconds."""

log = get_logger("audit.self_check")


class Altered(Exception):
    """The record is not what was signed; the message says where."""


class SelfCheck:
    """Looks periodically. What it finds stays said until a look finds the record intact again."""

    def __init__(self, source: Log, keys: KeyRing, clock: Clock) -> None:
        self._log = source
        self._keys = keys
        self._clock = clock
        self._next = 0
        self._before: Checkpoint | None = None
        self._finding = ""
        AUDIT_INTACT.set(1)
        for result in ("intact", "altered", "not_checked"):
            AUDIT_CHECKS.labels(result)

    def notices(self) -> list[str]:
        """What is wrong with the record; empty when nothing is known to be."""
        if not self._finding:
            return []
        return [
            f"the record is altered: {self._finding}; run `kubegate audit verify`, keep store and mirror as evidence"
        ]

    def head(self) -> str:
        """The newest tree head, for people."""
        with suppress(BadCheckpoint):
            newest = self._keys.open_any(self._log.checkpoint)
            return f"{newest.size} {root_text(newest.root)[:12]}"
        return "not signed by a key of this log"

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """One look. Never raises: what it finds is a number, a line of the log and a notice."""
        try:
            await self._check()
        except (Altered, BadCheckpoint, BadProof, LookupError) as error:
            self._finding = str(error)
            log.error("record altered", finding=self._finding)
            AUDIT_CHECKS.labels("altered").inc()
            AUDIT_INTACT.set(0)
        except DomainError as error:
            log.warning("record not checked", reason=error.public_message)
            AUDIT_CHECKS.labels("not_checked").inc()
            return
        except Exception as error:
            with suppress(Exception):
                log.error("record cannot be checked", exc_info=error)
            AUDIT_CHECKS.labels("not_checked").inc()
            return
        else:
            self._finding = ""
            AUDIT_CHECKS.labels("intact").inc()
            AUDIT_INTACT.set(1)
        AUDIT_CHECKED.set(self._clock.now().timestamp())

    async def _check(self) -> None:
        checkpoint = self._keys.open_any(self._log.checkpoint)
        before = self._before
        if before is not None:
            await self._extends(before)
        size = checkpoint.size
        first = max(self._next if self._next < size else 0, self._log.first)
        end = min(first + WINDOW, size)
        await self._window(first, end, checkpoint)
        self._next = end if end < size else 0
        await self._window(max(size - WINDOW, end, self._log.first), size, checkpoint)
        self._before = checkpoint

    async def _extends(self, before: Checkpoint) -> None:
        proof: Proof = await self._log.consistency(before.size)
        newest = self._keys.open_any(proof.checkpoint)
        try:
            check_consistency(before.size, before.root, newest.size, newest.root, proof.hashes)
        except BadProof as error:
            raise Altered(
                f"its first {before.size} events are not those of an earlier signed root ({error})"
            ) from error

    async def _window(self, first: int, end: int, checkpoint: Checkpoint) -> None:
        if first >= end:
            return
        records = await self._log.page(Filter(), first=first, end=end, limit=end - first, descending=False)
        numbers = [record.sequence for record in records]
        if self._log.first > first:
            return  # Deleted by retention meanwhile.
        if numbers != list(range(first, end)):
            missing = next(number for number in range(first, end) if number not in set(numbers))
            raise Altered(f"event {missing} is missing")
        paths = await self._log.inclusions(numbers, checkpoint.size)
        for record, path in zip(records, paths, strict=True):
            try:
                check_inclusion(
                    leaf_hash(record.canonical_json), record.sequence, checkpoint.size, path, checkpoint.root
                )
            except BadProof as error:
                raise Altered(f"event {record.sequence} is not what was signed ({error})") from error
