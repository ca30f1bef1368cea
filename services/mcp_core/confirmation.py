"""Confirmations: a person is asked before something is destroyed (R16).

A safety prompt, not an authorization: whoever confirms goes through steps 1 to 4 again like everybody else. What is
asked travels through the client's hands as a sealed token that fits one caller, one call and the object as it was
seen, once and for a few minutes; that it is used once is authz's business, for all replicas.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from services.common.clock import Clock
from services.common.errors import DomainError, FailedPrecondition
from services.common.ids import uuid7
from services.mcp_core.model import Caller
from services.mcp_core.ports import Confirmed, Sealer, Spent
from services.mcp_core.tools.base import Arguments, Permission, Plan, Tool

CONFIRM_SECONDS = 300.0
"""How long a question may be answered."""

HANDLE = Permission("handle", "kubegate", "confirm")
"""What lets a client that cannot ask anybody confirm for itself. Granted by name only."""


class Way(StrEnum):
    """How whoever sent a call can be asked. A token answers only in the way in which it was asked."""

    TOKEN = "token"
    """REST: 428 with a token that comes back as argument `confirm`."""
    STATE = "state"
    """MCP of 2026: `input_required`; the token is the requestState."""
    ELICIT = "elicit"
    """MCP of 2025: elicitation while the call is held open."""
    HANDLE = "handle"
    """Not at all, but policy permits that the client itself sends the token back as argument `confirm`."""
    NONE = "none"
    """Not at all."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask. token: with which it was asked, where the answer comes beside the arguments; accepted: the answer."""

    way: Way = Way.NONE
    token: str = field(default="", repr=False)
    accepted: bool = True


class ConfirmationNeeded(FailedPrecondition):
    """Somebody must confirm this call. ``token`` is to come back, in the way in which it is asked."""

    def __init__(self, way: Way, token: str, plan: Plan) -> None:
        super().__init__(f"{plan.summary} This must be confirmed first: nothing was done.")
        self.way = way
        self.token = token
        self.plan = plan


class ConfirmationUnavailable(FailedPrecondition):
    """The call must be confirmed, and nobody can be asked."""

    def __init__(self, summary: str) -> None:
        super().__init__(
            f"{summary} This must be confirmed by a person, and your client cannot be asked: nothing was done. Use a "
            f"client that supports elicitation, or the REST interface; or let policy grant you {HANDLE}."
        )


class Refusal(StrEnum):
    """Why a confirmation counts for nothing."""

    FORGED = "forged"
    FOREIGN = "foreign"
    ALTERED = "altered"
    USED = "used"
    EXPIRED = "expired"
    STALE = "stale"
    DECLINED = "declined"


VIOLATIONS = frozenset({Refusal.FORGED, Refusal.FOREIGN, Refusal.ALTERED, Refusal.USED})
"""Refusals that no honest client meets; the others happen to whoever is slow."""

_SAID = {
    Refusal.FORGED: "It was not given out here, or not in this way.",
    Refusal.FOREIGN: "It was given to somebody else.",
    Refusal.ALTERED: "It was given for other arguments or another tool.",
    Refusal.USED: "It was used before.",
    Refusal.EXPIRED: "It has expired.",
    Refusal.STALE: "The object has changed since.",
}


class ConfirmationRefused(FailedPrecondition):
    """A confirmation that does not fit, or a no. Nothing was done."""

    def __init__(self, why: Refusal) -> None:
        if why is Refusal.DECLINED:
            sentence = "The call was not confirmed: nothing was done."
        else:
            sentence = f"The confirmation is not valid: nothing was done. {_SAID[why]} Call again to be asked anew."
        super().__init__(sentence)
        self.why = why


class _Question(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a token seals."""

    id: str
    way: Way
    person: tuple[str, str, str, str]
    call: bytes
    seen: bytes
    expires: float


class Confirmations:
    """Asks, and judges the answers. Keeps nothing."""

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        self._sealer = sealer
        self._clock = clock

    def check(self, caller: Caller, call: bytes, plan: Plan, asking: Asking) -> Confirmed:
        """The confirmation of this very call, to be used. ``call``: its digest.

        Raises:
            ConfirmationNeeded: nobody has been asked yet. ConfirmationUnavailable: nobody can be.
            ConfirmationRefused: the answer is no, or does not fit.
        """
        person, seen = _person(caller), _seen(plan)
        now = self._clock.now().timestamp()
        if asking.way is Way.NONE:
            raise ConfirmationUnavailable(plan.summary)
        if not asking.token:
            question = _Question(uuid7(), asking.way, person, call, seen, now + CONFIRM_SECONDS)
            raise ConfirmationNeeded(asking.way, self._sealer.seal(msgspec.msgpack.encode(question)), plan)
        question = self._open(asking.token)
        for why, refused in (
            (Refusal.FORGED, question.way is not asking.way),
            (Refusal.FOREIGN, question.person != person),
            (Refusal.ALTERED, question.call != call),
            (Refusal.DECLINED, not asking.accepted),
            (Refusal.EXPIRED, question.expires <= now),
            (Refusal.STALE, question.seen != seen),
        ):
            if refused:
                raise ConfirmationRefused(why)
        return Confirmed(question.id, question.expires)

    def _open(self, token: str) -> _Question:
        content = self._sealer.open(token)
        try:
            return msgspec.msgpack.decode(content or b"", type=_Question)
        except msgspec.DecodeError:
            raise ConfirmationRefused(Refusal.FORGED) from None


def digest_of(cluster: str, tool: Tool, arguments: Arguments) -> bytes:
    """SHA-256 of what a call asks for: cluster, tool and validated arguments without the pipeline's own."""
    asked = [cluster, tool.name, dict(arguments)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).digest()


def refused(spent: Spent) -> DomainError:
    """The error of a confirmation that authz does not take."""
    return ConfirmationRefused(Refusal.USED if spent is Spent.USED else Refusal.EXPIRED)


def _person(caller: Caller) -> tuple[str, str, str, str]:
    principal = caller.principal
    return principal.issuer, principal.subject, principal.tenant, principal.credential_id


def _seen(plan: Plan) -> bytes:
    return hashlib.sha256(json.dumps([plan.resource_version, plan.summary]).encode()).digest()
