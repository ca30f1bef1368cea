"""Who may administer (R15). No gRPC, no IO of its own.

1. The peer has an operator's certificate (the server has checked that) and brings a principal token that was
   issued to it, of a credential that still lives (R5).
2. authz allows the token's principal ``kubegate:<area>:<verb>``. A refusal is recorded, folded (R25).
3. Where a credential is made, handed out or enabled: the operator himself holds all that it gives, or may
   ``kubegate:grants:any`` (R17). Else who may rotate keys could take the administrator's.
"""

from services.authn.journal import Act, Journal
from services.authn.model import Principal
from services.authn.ports import Credentials, OperatorTokens, Policy
from services.common.call import PRINCIPAL_TOKEN_METADATA, Call
from services.common.clock import Clock
from services.common.errors import PermissionDenied, Unauthenticated

_NO_TOKEN = "Administration needs a valid principal token of this operator; authenticate again."


class Admission:
    """Lets acts of administration begin."""

    def __init__(
        self, credentials: Credentials, tokens: OperatorTokens, policy: Policy, journal: Journal, clock: Clock
    ) -> None:
        self._credentials = credentials
        self._tokens = tokens
        self._policy = policy
        self._journal = journal
        self._clock = clock

    async def admit(self, area: str, verb: str, target: str, call: Call, does: str = "") -> Act:
        """An act on ``target``, which is recorded only if it can be what it should name; empty for none.
        ``does``: what the record calls it, where that says more than the verb of the permission.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: authz did not decide, or the refusal could not be recorded.
        """
        act = self._journal.act(call, f"{area}.{does or verb}", f"{area}/{target}" if target else area)
        token = call.metadata.get(PRINCIPAL_TOKEN_METADATA, "")
        try:
            principal, party, revision = await self._tokens.verify(token)
            if party != call.peer or not self._credentials.alive(principal, revision, self._clock.now()):
                raise Unauthenticated(_NO_TOKEN)
        except Unauthenticated:
            await self._journal.refused(act, "no valid principal token")
            raise Unauthenticated(_NO_TOKEN) from None
        act = act.by(principal, token)
        decision = await self._policy.check(token, area, verb, call)
        if not decision.allowed:
            await self._journal.refused(act, "denied by policy")
            raise PermissionDenied(decision.explanation or f"Policy does not allow kubegate:{area}:{verb}.")
        return act.decided(decision)

    async def may_grant(self, act: Act, grantee: Principal) -> tuple[Act, tuple[str, ...]]:
        """The act, with what it rests on, and the roles of ``grantee`` that the policy does not know.

        Raises:
            PermissionDenied: the operator lacks something that the credential would give; recorded.
            Unavailable: authz did not say.
        """
        found = await self._policy.grantable(act.token, grantee, act.call)
        if found.missing:
            await self._journal.refused(act, "grants beyond what the operator holds")
            raise PermissionDenied(
                f"Nobody grants beyond what they hold: this credential would give {found.missing}, which you do not "
                "hold there, or not for as long. Ask somebody who does, or who may kubegate:grants:any."
            )
        return act.about({"grants_rule": found.rule}), found.unknown_roles
