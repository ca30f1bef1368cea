"""What the service needs from the outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from services.authz.policy.model import Action, Decision, Elevation, Principal
from services.authz.policy.scope import Scope
from services.common.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks the service (a SPIFFE path), for which request, and until when an answer is of use."""

    peer: str
    deadline: Deadline
    request_id: str = ""
    address: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """A principal that authn vouches for, and the peer that its token was issued to (R5).

    ``expires``: of the token, in seconds since 1970. ``recorded``: the principal as records show it.
    """

    principal: Principal
    authorized_party: str
    expires: float = 0.0
    recorded: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token that was not accepted. ``user`` is known only where the token itself was genuine."""

    reason: str
    violation: bool
    user: str = ""


class TokenVerifier(Protocol):
    """Verifies principal tokens."""

    async def verify(self, token: str) -> Verified:
        """The principal of a token; the same object as long as the token lives.

        Raises:
            Unauthenticated: it is not a valid principal token.
            Unavailable: authn's keys cannot be had.
        """
        ...


class Phase(Enum):
    """Which part of an administrative act a record speaks of."""

    WHOLE = "whole"
    INTENT = "intent"
    OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class Act:
    """An administrative act of a person (R15)."""

    caller: Caller
    principal: Principal
    token: str = field(repr=False)
    action: str
    resource: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Recorder(Protocol):
    """Writes to the audit log. Nothing may be answered on a record that failed."""

    async def decided(
        self,
        caller: Caller,
        token: str,
        verified: Verified,
        actions: Sequence[Action],
        decisions: Sequence[Decision],
        revision: str,
        milliseconds: float,
    ) -> str:
        """Records one or more decisions about one principal durably, as one event, and returns its id (R18).

        Raises:
            DomainError: it is not known to be durable.
        """
        ...

    async def refused(self, caller: Caller, refusal: Refusal) -> None:
        """Records a token that was not accepted.

        Raises:
            DomainError: it is not known to be durable.
        """
        ...

    async def acted(
        self,
        act: Act,
        phase: Phase,
        deadline: Deadline,
        *,
        intent_id: str = "",
        error: str = "",
        ends_at: datetime | None = None,
    ) -> str:
        """Records an administrative act durably and returns the event's id. ``error``: the code of what it failed with.
        ``ends_at``: of an intent, when its outcome is there at the latest (R21).

        Raises:
            DomainError: it is not known to be durable.
        """
        ...

    async def act_refused(self, act: Act, code: str, message: str) -> None:
        """Records a refused administrative act; a flood of one kind becomes counted events (R25).

        Raises:
            DomainError: it is not known to be durable.
        """
        ...

    def policy_adopted(self, revision: str, previous: str) -> None:
        """Records, as soon as audit takes it, that a policy is in force."""
        ...

    def policy_rejected(self, revision: str, problems: Sequence[str]) -> None:
        """Records, as soon as audit takes it, that a changed policy is unusable and ``revision`` stays."""
        ...


class State(Enum):
    """Where an elevation stands. That its time is over is told by the clock, not stored."""

    REQUESTED = "requested"
    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Record:
    """An elevation as stored. Times are seconds since 1970, people are ``issuer:subject``.

    ``expires``: when it ends by itself; before the approval, until when it may be approved.
    """

    id: str
    state: State
    issuer: str
    subject: str
    tenant: str
    role: str
    scope: Scope
    duration: float
    justification: str
    requested_at: float
    expires: float
    approved_by: str = ""
    revoked_by: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A policy that was put in force. ``revision``: the digest of its bytes. ``by``: the person, empty where nobody is
    known. ``how``: ``start``, ``file``, ``reload`` or ``rollback to N``. ``number`` is the store's revision at which it
    was, ``at`` in seconds since 1970; both of what is stored.
    """

    revision: str
    by: str = ""
    how: str = "file"
    number: int = 0
    at: float = 0.0


class Store(Protocol):
    """authz's own store. Every change is durable when its call returns, and changes come one after the other.

    The revision grows, in the order of commits, with every change that can alter a decision (R12).
    """

    async def revision(self) -> int:
        """The newest revision, by a read begun now."""
        ...

    async def adopted(self, policy: Adopted, content: bytes) -> int:
        """Notes that a policy is in force, and keeps it among the newest; returns the new revision."""
        ...

    async def policies(self) -> list[Adopted]:
        """The policies that are kept, newest first; the first is in force."""
        ...

    async def policy(self, number: int) -> bytes | None:
        """The bytes of a policy that is kept."""
        ...

    async def active(self, now: float) -> tuple[int, list[Elevation]]:
        """The elevations in force and the revision of which that is true."""
        ...

    async def add(self, record: Record, *, at_most: int) -> bool:
        """Stores a request, unless its person has ``at_most`` open ones at ``requested_at``."""
        ...

    async def find(self, elevation_id: str) -> Record | None:
        """One elevation."""
        ...

    async def approve(self, elevation_id: str, by: str, now: float, expires: float) -> bool:
        """Activates a request that may still be approved; False where it is no such thing any more."""
        ...

    async def revoke(self, elevation_id: str, by: str, now: float) -> bool:
        """Ends what is requested or active; False where it has ended."""
        ...

    async def records(self, tenant: str | None, limit: int, *, open_at: float | None = None) -> list[Record]:
        """Elevations, newest first; of one tenant, or of all for None; those only that are open at a time, if given."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key of one person."""

    issuer: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A confirmation that is to be used. ``expires``: seconds since 1970."""

    id: str
    expires: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that is taken. Times are seconds since 1970; ``outcome`` is empty until somebody has said it."""

    id: str
    digest: bytes
    request_id: str
    claimed_at: float
    deadline: float
    outcome: str = ""


class OnceStore(Protocol):
    """Each call is one transaction that is durable when it returns."""

    async def recall(self, key: Key, now: float) -> Claim | None:
        """Who took a key, unless it is forgotten at ``now``."""
        ...

    async def claim(
        self, key: Key | None, claim: Claim, confirmation: Confirmation | None, now: float, forget: float
    ) -> Claim | bool:
        """Uses the confirmation and takes the key until ``forget``: True. Otherwise changes nothing and returns the
        claim that has the key, or False where the confirmation was used before."""
        ...

    async def settle(self, claim_id: str, outcome: str) -> None:
        """Stores how a claim ended, unless that is stored."""
        ...

    async def release(self, claim_id: str) -> None:
        """Forgets a claim whose outcome is not stored."""
        ...
