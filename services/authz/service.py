"""The decision: who asks, may they ask this, may the principal do it; recorded before it is answered.

No IO of its own and no gRPC: tokens are verified, and decisions recorded, through ports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.authz.policy.document import InvalidPolicy
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Decision, Principal
from services.authz.policy.parse import parse_policy, revision_of
from services.authz.policy.permissions import KUBEGATE
from services.authz.policy.scope import Scope
from services.authz.policy.whole import cut_off
from services.authz.ports import Caller, Recorder, Refusal, TokenVerifier
from services.common.clock import Clock
from services.common.errors import Unauthenticated
from services.common.log import get_logger

RELAYED_AREAS = {
    "service/authn": frozenset({"keys", "users", "issuers", "certs"}),
    "service/audit": frozenset({"audit"}),
}
"""Which areas of administration a service may ask about with a token issued to an operator (R15)."""

_NOT_ACCEPTED = "The principal token is not valid for this caller; authenticate again."

log = get_logger("authz")


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded decision. ``event_id`` is its record."""

    decision: Decision
    revision: str
    event_id: str


class AuthzService:
    """Holds the policy in force; a reload replaces it whole, between two decisions."""

    def __init__(self, engine: Engine, tokens: TokenVerifier, recorder: Recorder, clock: Clock) -> None:
        self._engine = engine
        self._content = b""
        """What the engine was made of, once the file was seen to be that."""
        self._tokens = tokens
        self._recorder = recorder
        self._clock = clock

    @property
    def revision(self) -> str:
        """Revision of the policy in force."""
        return self._engine.revision

    async def check(self, caller: Caller, token: str, action: Action) -> Answer:
        """Decides one action of the token's principal and records the decision (R18).

        Raises:
            Unauthenticated: the token is not valid, or was issued to another peer; recorded too.
            Unavailable, ResourceExhausted, DeadlineExceeded: the decision could not be recorded, so there
                is none.
        """
        started = self._clock.monotonic()
        principal = await self._principal(caller, token, action)
        engine = self._engine
        decision = engine.decide(principal, action)
        milliseconds = (self._clock.monotonic() - started) * 1000
        event_id = await self._recorder.decided(
            caller, token, principal, action, decision, engine.revision, milliseconds
        )
        return Answer(decision, engine.revision, event_id)

    async def list_allowed(self, caller: Caller, token: str, actions: Sequence[Action]) -> tuple[list[Scope], str]:
        """For each action, where the token's principal may do it, and the revision that says so.

        Not a decision, so not recorded; a token that is not accepted is.

        Raises:
            Unauthenticated: as ``check``.
        """
        principal = await self._principal(caller, token, None)
        engine = self._engine
        return [engine.allowed_scope(principal, action) for action in actions], engine.revision

    async def _principal(self, caller: Caller, token: str, action: Action | None) -> Principal:
        try:
            verified = await self._tokens.verify(token)
        except Unauthenticated:
            await self._recorder.refused(caller, Refusal("principal token not valid", violation=False))
            raise
        principal, party = verified.principal, verified.authorized_party
        if party == caller.peer or _relayed(caller.peer, party, action):
            return principal
        reason = f"principal token of {party} used by {caller.peer}"
        await self._recorder.refused(caller, Refusal(reason, violation=True, user=principal.user))
        raise Unauthenticated(_NOT_ACCEPTED)

    def reload(self, content: bytes) -> None:
        """Puts a changed policy file in force, or keeps the policy that is when the new one is unusable."""
        revision = revision_of(content)
        if revision == self.revision:
            self._content = content
            return
        try:
            engine = Engine(parse_policy(content))
        except InvalidPolicy as error:
            self.keep([problem.at("policy") for problem in error.problems])
            return
        if self._content and (problem := cut_off(self._content, content)):
            self.keep([problem.at("policy")])
            return
        previous, self._engine, self._content = self.revision, engine, content
        log.info("policy adopted", revision=revision, previous=previous)
        self._recorder.policy_adopted(revision, previous)

    def keep(self, problems: Sequence[str]) -> None:
        """Reports that the changed policy file is unusable; the policy in force stays."""
        log.error("changed policy is unusable, the last good one stays", problems=list(problems))
        self._recorder.policy_rejected(self.revision, problems)


def _relayed(peer: str, authorized_party: str, action: Action | None) -> bool:
    """Whether a service asks on behalf of an operator about its own area of administration (R15)."""
    return (
        action is not None
        and authorized_party.startswith("operator/")
        and action.group == KUBEGATE
        and action.resource in RELAYED_AREAS.get(peer, ())
    )
