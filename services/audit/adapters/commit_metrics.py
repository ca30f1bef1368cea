"""What a commit adds to the counters."""

from collections import Counter
from collections.abc import Sequence

from services.audit.ports import Ack, Draft
from services.common.errors import DomainError
from services.common.telemetry.bounded import Bounded
from services.common.telemetry.metrics import AUDIT_BATCH, AUDIT_COMMIT, AUDIT_EVENTS, AUDIT_REFUSED

_writer = Bounded(32)
for _code in ("ALREADY_EXISTS", "UNAVAILABLE"):
    # Series begin at zero, so that the first one is a rise.
    AUDIT_REFUSED.labels(_code)


def count_commit(drafts: Sequence[Draft], answers: Sequence[Ack | DomainError], seconds: float) -> None:
    """One transaction: who wrote what was stored, and why the rest was not. Called by the thread that writes."""
    AUDIT_COMMIT.observe(seconds)
    AUDIT_BATCH.observe(len(drafts))
    stored: Counter[str] = Counter()
    for draft, answer in zip(drafts, answers, strict=True):
        if isinstance(answer, DomainError):
            AUDIT_REFUSED.labels(answer.code.name).inc()
        else:
            stored[draft.fields["writer"]] += 1
    for writer, many in stored.items():
        AUDIT_EVENTS.labels(_writer(writer)).inc(many)
