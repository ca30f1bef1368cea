"""The decision: who asks, may they ask this, may the principal do it; recorded before it is answered.

No IO of its own and no gRPC: tokens are verified, and decisions recorded, through ports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.authz.in_force import InForce
from services.authz.policy.explain import Explanation, explain
from services.authz.policy.grants import missing_for_credential
from services.authz.policy.model import Action, Allowed, Circumstances, Decision, Principal
from services.authz.policy.permissions import KUBEGATE
from services.authz.policy.scope import Scope
from services.authz.policy.suggest import Suggestion, suggest
from services.authz.ports import Caller, Recorder, Refusal, TokenVerifier, Verified
from services.common.clock import Clock
from services.common.errors import Unauthenticated

RELAYED_AREAS = {
    "service/authn": frozenset({"keys", "users", "issuers", "grants"}),
    "service/audit": frozenset({"audit"}),
}
"""Which areas of administration a service may ask about with a token issued to an operator (R15)."""

GRANT_ANYTHING = Action(KUBEGATE, "grants", "any")
"""What lets somebody make credentials that may more than he may."""

_NOT_ACCEPTED = "The principal token is not valid for this caller; authenticate again."


@dataclass(frozen=True, slots=True)
class Answer:
    """A recorded decision. ``event_id`` is its record.

    ``cacheable_until``: seconds since 1970, 0 where it may not be cached (R11). ``lease_revision``: under which
    it was decided (R12).
    """

    decision: Decision
    revision: str
    event_id: str
    cacheable_until: float
    lease_revision: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """Where something may be done: in a scope, less what deny rules take out of it. Not a decision."""

    scope: Scope
    excluding: Scope


@dataclass(frozen=True, slots=True)
class Allowances:
    """One for each action asked about; the rest as in `Answer`."""

    each: list[Allowance]
    revision: str
    cacheable_until: float
    lease_revision: int


@dataclass(frozen=True, slots=True)
class Grantable:
    """Whether somebody may make a credential: the first permission that he lacks for it (empty: none), the rule by
    which he may grant anything (empty: by none), and the roles that the policy does not know. Not a decision."""

    missing: str
    rule_id: str
    unknown_roles: tuple[str, ...]
    revision: str


class AuthzService:
    """Answers about principal tokens with what is in force."""

    def __init__(self, in_force: InForce, tokens: TokenVerifier, recorder: Recorder, clock: Clock) -> None:
        self._in_force = in_force
        self._tokens = tokens
        self._recorder = recorder
        self._clock = clock

    @property
    def revision(self) -> str:
        """Revision of the policy in force."""
        return self._in_force.revision

    async def check(self, caller: Caller, token: str, actions: Sequence[Action]) -> list[Answer]:
        """Decides actions of the token's principal under one policy and records them as one event (R18).

        Raises:
            Unauthenticated: the token is not valid, or was issued to another peer; recorded too.
            Unavailable, ResourceExhausted, DeadlineExceeded: the decisions could not be recorded, so there
                are none.
        """
        started = self._clock.monotonic()
        verified = await self.identify(caller, token, actions)
        return await self.decide(caller, token, verified, actions, started)

    async def decide(
        self, caller: Caller, token: str, verified: Verified, actions: Sequence[Action], started: float
    ) -> list[Answer]:
        """The same for a token that has been identified."""
        engine, lease_revision = self._in_force.engine, self._in_force.lease_revision
        at = Circumstances(self._clock.now().timestamp(), caller.address)
        principal = verified.principal
        decisions = [engine.decide(principal, action, at) for action in actions]
        milliseconds = (self._clock.monotonic() - started) * 1000
        revision = engine.policy.revision
        event_id = await self._recorder.decided(caller, token, verified, actions, decisions, revision, milliseconds)
        ends = min(verified.expires, principal.expires)
        # Many actions of a batch rest on one and the same decision.
        answers = {
            id(decision): Answer(
                decision,
                revision,
                event_id,
                min(decision.until, ends) if isinstance(decision, Allowed) else 0.0,
                lease_revision,
            )
            for decision in {id(each): each for each in decisions}.values()
        }
        return [answers[id(decision)] for decision in decisions]

    async def list_allowed(self, caller: Caller, token: str, actions: Sequence[Action]) -> Allowances:
        """For each action, where the token's principal may do it, and until when that holds.

        Not a decision, so not recorded; a token that is not accepted is.

        Raises:
            Unauthenticated: as ``check``.
        """
        verified = await self.identify(caller, token, ())
        principal = verified.principal
        engine, lease_revision = self._in_force.engine, self._in_force.lease_revision
        at = Circumstances(self._clock.now().timestamp(), caller.address)
        allowances = []
        for action in actions:
            scope = engine.allowed_scope(principal, action, at)
            # Less than all that is denied: what lies outside may be another tenant's (R13).
            allowances.append(Allowance(scope, engine.denied_scope(action).intersect(scope)))
        # Conditions are not looked at here, so only what ends with time can change it.
        until = min(engine.profile(principal, at.now).until, verified.expires, principal.expires)
        return Allowances(allowances, engine.policy.revision, until, lease_revision)

    async def suggest(
        self, caller: Caller, token: str, actions: Sequence[Action], roles: Sequence[str]
    ) -> list[Suggestion]:
        """For each action, which of some roles would let the token's principal do it. Not a decision, so not recorded.

        Raises:
            Unauthenticated: as ``check``.
        """
        principal = (await self.identify(caller, token, ())).principal
        at = Circumstances(self._clock.now().timestamp(), caller.address)
        return suggest(self._in_force.engine, principal, actions, roles, at)

    async def grantable(self, caller: Caller, token: str, grantee: Principal) -> Grantable:
        """Whether the token's principal may make a credential that proves ``grantee``. Who asks decides, and records.

        Raises:
            Unauthenticated: as ``check``.
        """
        principal = (await self.identify(caller, token, (GRANT_ANYTHING,))).principal
        engine = self._in_force.engine
        now = self._clock.now().timestamp()
        anything = engine.decide(principal, GRANT_ANYTHING, Circumstances(now, caller.address))
        by = anything.rule_id if isinstance(anything, Allowed) else ""
        missing = "" if by else missing_for_credential(engine, principal, grantee, now)
        unknown = tuple(role for role in grantee.roles if role not in engine.profiles.roles)
        return Grantable(missing, by, unknown, engine.policy.revision)

    async def explain(self, caller: Caller, token: str, action: Action) -> tuple[Explanation, str]:
        """What ``check`` would say to the token's principal, and why. Not a decision, so not recorded.

        Raises:
            Unauthenticated: as ``check``.
        """
        principal = (await self.identify(caller, token, ())).principal
        return self.explain_principal(caller, principal, action)

    def explain_principal(self, caller: Caller, principal: Principal, action: Action) -> tuple[Explanation, str]:
        """The same for any principal; who may ask that is decided elsewhere."""
        engine = self._in_force.engine
        at = Circumstances(self._clock.now().timestamp(), caller.address)
        return explain(engine, principal, action, at), engine.policy.revision

    async def newest(self) -> tuple[int, str]:
        """The lease's revision by a store read begun now, and the policy's (R12)."""
        return await self._in_force.newest(), self._in_force.revision

    async def identify(self, caller: Caller, token: str, actions: Sequence[Action]) -> Verified:
        """Whose token it is, where the caller may show it.

        Raises:
            Unauthenticated: it is not valid, or was issued to another peer; recorded.
        """
        try:
            verified = await self._tokens.verify(token)
        except Unauthenticated:
            await self._recorder.refused(caller, Refusal("principal token not valid", violation=False))
            raise
        party = verified.authorized_party
        if party == caller.peer or _relayed(caller.peer, party, actions):
            return verified
        reason = f"principal token of {party} used by {caller.peer}"
        await self._recorder.refused(caller, Refusal(reason, violation=True, user=verified.principal.user))
        raise Unauthenticated(_NOT_ACCEPTED)


def _relayed(peer: str, authorized_party: str, actions: Sequence[Action]) -> bool:
    """Whether a service asks on behalf of an operator about its own area of administration (R15)."""
    areas = RELAYED_AREAS.get(peer, frozenset())
    return (
        bool(actions)
        and authorized_party.startswith("operator/")
        and all(action.group == KUBEGATE and action.resource in areas for action in actions)
    )
