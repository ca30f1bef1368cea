"""What the service needs from the outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.authz.policy.model import Action, Decision, Principal
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
    """A principal that authn vouches for, and the peer that its token was issued to (R5)."""

    principal: Principal
    authorized_party: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token that was not accepted. ``user`` is known only where the token itself was genuine."""

    reason: str
    violation: bool
    user: str = ""


class TokenVerifier(Protocol):
    """Verifies principal tokens."""

    async def verify(self, token: str) -> Verified:
        """The principal of a token.

        Raises:
            Unauthenticated: it is not a valid principal token.
            Unavailable: authn's keys cannot be had.
        """
        ...


class Recorder(Protocol):
    """Writes to the audit log. Nothing may be answered on a record that failed."""

    async def decided(
        self,
        caller: Caller,
        token: str,
        principal: Principal,
        action: Action,
        decision: Decision,
        revision: str,
        milliseconds: float,
    ) -> str:
        """Records a decision durably and returns the event's id (R18).

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

    def policy_adopted(self, revision: str, previous: str) -> None:
        """Records, as soon as audit takes it, that a policy is in force."""
        ...

    def policy_rejected(self, revision: str, problems: Sequence[str]) -> None:
        """Records, as soon as audit takes it, that a changed policy is unusable and ``revision`` stays."""
        ...
