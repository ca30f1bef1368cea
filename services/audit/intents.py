"""Which outcome closes which intent.

An outcome is recorded under the verified name of its intent without a token (R5), so it may say nothing but how that
one action ended: once, of the same action on the same thing, and before the intent counts as an orphan (R21). Without
these bounds whoever holds the core could sign whatever it likes with the name of everybody who ever called.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from services.audit import canonical
from services.audit.event import IDENTITY_FIELDS, Event, Phase, rfc3339
from services.audit.ports import Log
from services.common.clock import Clock
from services.common.deadline import OUTCOME_GRACE
from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from services.common.log import get_logger

LONGEST = timedelta(hours=24)
"""The deadline of an intent lies at most so far ahead, else its outcome could be had for ever."""

_SAME = ("event_type", "action", "resource", "namespace", "request_id")

log = get_logger("audit.intents")


class Intents:
    """Of one log. Belongs to one event loop: what is under way is known here and nowhere else."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._closing: dict[tuple[str, str], Counter[str]] = {}
        """(writer, intent) -> outcomes under way, by event_id: one id, as often as it was sent."""

    def check(self, intent: Event) -> None:
        """Checks the deadline of an intent.

        Raises:
            InvalidArgument: it lies too far ahead.
        """
        if intent.deadline is not None and intent.deadline > self._clock.now() + LONGEST:
            raise InvalidArgument(
                f"The deadline of an intent must lie at most {LONGEST // timedelta(hours=1)} hours ahead."
            )

    @asynccontextmanager
    async def closing(self, writer: str, outcome: Event) -> AsyncIterator[dict[str, Any]]:
        """Yields the identity of the outcome's intent. The outcome is to be appended inside: until the end of the block
        no other outcome of this intent is taken, and afterwards the log knows it.

        Raises:
            FailedPrecondition: this writer recorded no such intent, it was for something else, or its time is over.
            AlreadyExists: the intent has another outcome.
        """
        key = writer, outcome.intent_id
        under_way = self._closing.setdefault(key, Counter())
        under_way[outcome.event_id] += 1
        try:
            if len(under_way) > 1:
                raise self._refused(writer, outcome, AlreadyExists("The intent has another outcome already."))
            yield await self._identity(writer, outcome)
        finally:
            under_way[outcome.event_id] -= 1
            if not under_way[outcome.event_id]:
                del under_way[outcome.event_id]
            if not under_way:
                del self._closing[key]

    async def _identity(self, writer: str, outcome: Event) -> dict[str, Any]:
        found, closed_by = await self._log.find_intent(writer, outcome.intent_id)
        intent = canonical.decode(found.canonical_json) if found else {}
        if intent.get("phase") != Phase.INTENT:
            raise FailedPrecondition(f"{writer} has recorded no intent {outcome.intent_id} of this type.")
        said = outcome.fields(writer)
        different = [name for name in _SAME if said.get(name, "") != intent.get(name, "")]
        if _permission(said) != _permission(intent):
            different.append("decision.permission")
        if different:
            message = f"The outcome is of another action than its intent {outcome.intent_id}: {', '.join(different)}."
            raise self._refused(writer, outcome, FailedPrecondition(message))
        # An outcome that is sent again is the same outcome, however late (R8).
        if closed_by is not None and closed_by != outcome.event_id:
            raise self._refused(writer, outcome, AlreadyExists("The intent has another outcome already."))
        if closed_by is None and intent["deadline"] < rfc3339(self._clock.now() - OUTCOME_GRACE):
            message = f"The time of the intent {outcome.intent_id} is over; its outcome stays unknown (R21)."
            raise self._refused(writer, outcome, FailedPrecondition(message))
        return {key: value for key, value in intent.items() if key in IDENTITY_FIELDS}

    def _refused(
        self, writer: str, outcome: Event, error: AlreadyExists | FailedPrecondition
    ) -> AlreadyExists | FailedPrecondition:
        # No healthy core sends such an outcome: an operator should see it.
        log.warning(
            "outcome refused",
            writer=writer,
            event_id=outcome.event_id,
            intent_id=outcome.intent_id,
            reason=error.public_message,
        )
        return error


def _permission(fields: dict[str, Any]) -> str:
    permission: str = fields.get("decision", {}).get("permission", "")
    return permission
