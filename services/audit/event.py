"""An event, its bounds, and the fields of the record that it becomes.

The record is one flat JSON object. The fields of the users' format are always there (``timestamp``,
``event_id``, ``event_type``, ``user``, ``action``, ``resource``, ``namespace``, ``result``,
``error_message``, ``metadata``, ``duration_ms``), and so are ``sequence`` (leaf index), ``writer`` (SPIFFE
path of whoever appended it) and ``user_source`` (``verified`` or ``asserted``, R22). ``tenant``,
``principal``, ``decision``, ``source``, ``request_id``, ``trace_id``, ``phase``, ``intent_id`` and
``deadline`` are there where they have a value, and so is ``unknown_fields``: what a newer writer said in fields
that this program does not know yet, as a serialized protobuf Event in base64.

``user`` of a verified principal is the subject for our own issuer, ``issuer:subject`` for every other, and
``kubegate:subject`` where one of our subjects holds a colon, so that two identities never share a name (R1).
"""

import math
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from services.common.errors import InvalidArgument
from services.common.identity import user_name

NAME_LIMIT = 4_096
"""Characters in one name: user, action, resource, metadata value ..."""

MESSAGE_LIMIT = 16_384
"""Characters in ``error_message``."""

METADATA_LIMIT = 64
"""Entries in ``metadata``."""

CLAIMS = 32
"""Roles, groups and methods of a principal that are recorded, of each at most."""

EVENT_LIMIT = 65_536
"""Characters in all texts of one event together."""

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
METADATA_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]{0,62}")
_TRACE_ID = re.compile(r"([0-9a-f]{32})?")


class EventType(StrEnum):
    """Kind of an event."""

    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    MCP_REQUEST = "mcp_request"
    SECURITY_VIOLATION = "security_violation"
    COMPLIANCE = "compliance"
    ADMIN = "admin"
    EXTERNAL = "external"


class Result(StrEnum):
    """How it ended: done, refused, tried without success, or not known."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """Which part of a call an event speaks of."""

    INTENT = "intent"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Decision:
    """A policy decision as recorded."""

    allowed: bool
    rule: str
    policy_revision: str
    permission: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A principal that authn vouches for. ``authorized_party`` is the SPIFFE path the token was issued to."""

    issuer: str
    subject: str
    credential_id: str
    auth_type: str
    tenant: str
    authorized_party: str
    expires_at: datetime
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    """Who acts for him, the current one first, named as in the field ``user``."""

    @property
    def user(self) -> str:
        """The name in the field ``user``; see the module's rule."""
        return user_name(self.issuer, self.subject)

    def fields(self) -> dict[str, Any]:
        """What a verified identity puts into a record."""
        claims = {name: list(getattr(self, name)[:CLAIMS]) for name in ("roles", "groups", "amr", "actors")}
        details = {
            "issuer": self.issuer,
            "subject": self.subject,
            "credential_id": self.credential_id,
            "auth_type": self.auth_type,
            **_present(claims),
        }
        tenant = {"tenant": self.tenant} if self.tenant else {}
        return {"user": self.user, "user_source": "verified", "principal": details, **tenant}


IDENTITY_FIELDS = frozenset({"user", "user_source", "principal", "tenant"})
"""Fields that a verified identity decides."""


# Not frozen, nor is what becomes of it on the way to its leaf: that costs three times as much to make, for every event.
@dataclass(slots=True)
class Event:
    """One event as its writer sends it. Times are UTC, ``duration_ms`` is milliseconds."""

    event_id: str
    timestamp: datetime
    event_type: EventType
    action: str
    result: Result
    user: str = ""
    resource: str = ""
    namespace: str = ""
    error_message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    duration_ms: float = 0.0
    tenant: str = ""
    decision: Decision | None = None
    source_address: str = ""
    user_agent: str = ""
    request_id: str = ""
    trace_id: str = ""
    phase: Phase | None = None
    intent_id: str = ""
    deadline: datetime | None = None
    unknown: bytes = b""

    @property
    def is_intent_or_outcome(self) -> bool:
        """Whether it speaks of a call of a tool before or after its execution."""
        return self.event_type is EventType.MCP_REQUEST and self.phase is not None

    def check(self) -> None:
        """Checks bounds and shape.

        Raises:
            InvalidArgument: lists everything that is wrong.
        """
        problems: list[str] = []
        if not _UUID7.fullmatch(self.event_id):
            problems.append("event_id must be a UUID of version 7 in lower case")
        if not self.action:
            problems.append("action is missing")
        if not _TRACE_ID.fullmatch(self.trace_id):
            problems.append("trace_id must be 32 lower-case hex digits")
        if not (math.isfinite(self.duration_ms) and 0 <= self.duration_ms <= 1e12):
            problems.append("duration_ms must be a number from 0 to 1e12")
        if self.phase is Phase.OUTCOME and not _UUID7.fullmatch(self.intent_id):
            problems.append("an outcome needs the event_id of its intent as intent_id")
        if self.phase is not Phase.OUTCOME and self.intent_id:
            problems.append("intent_id belongs to outcomes only")
        if self.phase is Phase.INTENT and self.deadline is None:
            problems.append("an intent needs a deadline (R21)")
        if len(self.unknown) > MESSAGE_LIMIT:
            problems.append(f"fields of a newer contract exceed {MESSAGE_LIMIT} bytes")
        problems += self._oversize()
        if problems:
            raise InvalidArgument(f"The event cannot be recorded: {'; '.join(problems)}.")

    def _oversize(self) -> list[str]:
        if self._is_small():
            return []
        texts = {
            name: getattr(self, name)
            for name in ("user", "action", "resource", "namespace", "tenant", "user_agent", "request_id")
        }
        texts["source.address"] = self.source_address
        if self.decision is not None:
            decision = self.decision
            texts["decision"] = decision.rule + decision.policy_revision + decision.permission
        texts |= {f"metadata[{key[:63]}]": value for key, value in self.metadata.items()}
        problems = [f"{name} exceeds {NAME_LIMIT} characters" for name, text in texts.items()
                    if len(text) > NAME_LIMIT]  # fmt: skip
        if len(self.error_message) > MESSAGE_LIMIT:
            problems.append(f"error_message exceeds {MESSAGE_LIMIT} characters")
        if len(self.metadata) > METADATA_LIMIT:
            problems.append(f"metadata has more than {METADATA_LIMIT} entries")
        if not all(METADATA_KEY.fullmatch(key) for key in self.metadata):
            problems.append("metadata keys must be 1-63 of A-Z a-z 0-9 _ . - / and start with a letter or _")
        if not problems and sum(map(len, texts.values())) + len(self.error_message) > EVENT_LIMIT:
            problems.append(f"the event exceeds {EVENT_LIMIT} characters")
        return problems

    def _is_small(self) -> bool:
        """Whether nothing can be too large, told by the sum alone: nearly always."""
        decision = self.decision
        size = (
            len(self.user) + len(self.action) + len(self.resource) + len(self.namespace) + len(self.error_message)
            + len(self.tenant) + len(self.source_address) + len(self.user_agent) + len(self.request_id)
            + (len(decision.rule) + len(decision.policy_revision) + len(decision.permission) if decision else 0)
            + sum(map(len, self.metadata.values()))
        )  # fmt: skip
        return (
            size <= NAME_LIMIT
            and len(self.metadata) <= METADATA_LIMIT
            and all(map(METADATA_KEY.fullmatch, self.metadata))
        )

    def fields(self, writer: str) -> dict[str, Any]:
        """The record without ``sequence``, its user asserted by the writer."""
        record: dict[str, Any] = {
            "timestamp": rfc3339(self.timestamp),
            "event_id": self.event_id,
            "event_type": self.event_type._value_,
            "user": self.user,
            "user_source": "asserted",
            "action": self.action,
            "resource": self.resource,
            "namespace": self.namespace,
            "result": self.result._value_,
            "error_message": self.error_message,
            "metadata": dict(self.metadata),
            "duration_ms": _number(self.duration_ms),
            "writer": writer,
        }
        if self.tenant:
            record["tenant"] = self.tenant
        if self.request_id:
            record["request_id"] = self.request_id
        if self.trace_id:
            record["trace_id"] = self.trace_id
        if self.intent_id:
            record["intent_id"] = self.intent_id
        if self.phase:
            record["phase"] = self.phase.value
        if self.deadline:
            record["deadline"] = rfc3339(self.deadline)
        if self.unknown:
            record["unknown_fields"] = b64encode(self.unknown).decode()
        if self.source_address or self.user_agent:
            record["source"] = _present({"address": self.source_address, "user_agent": self.user_agent})
        if decision := self.decision:
            record["decision"] = {
                "allowed": decision.allowed,
                "rule": decision.rule,
                "policy_revision": decision.policy_revision,
                "permission": decision.permission,
            }
        return record


def rfc3339(moment: datetime) -> str:
    """A time as RFC 3339 in UTC with six decimals, so that text order is time order."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


def _number(value: float) -> int | float:
    """Microsecond precision, and no two spellings of one number."""
    rounded = round(value, 3)
    return int(rounded) if rounded.is_integer() else rounded
