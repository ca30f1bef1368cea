"""What goes into the log: one entry for audit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.authn.model import Source


class Result(StrEnum):
    """How it ended: refused is ``failure``, tried and broken ``error``; an intent does not know yet."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """Type of an event."""

    AUTHENTICATION = "authentication"
    ADMIN = "admin"


class Phase(StrEnum):
    """Which part of a change an event speaks of."""

    WHOLE = "whole"
    INTENT = "intent"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Entry:
    """One event for audit. ``duration_ms`` in milliseconds; ``error`` never carries a secret."""

    kind: Kind
    action: str
    result: Result
    user: str = ""
    tenant: str = ""
    resource: str = ""
    error: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    request_id: str = ""
    duration_ms: float = 0.0
    phase: Phase = Phase.WHOLE
    intent_id: str = ""
    ends_at: datetime | None = None
