"""Administration of trusted issuers (R15). No gRPC, no IO of its own."""

from collections.abc import Sequence
from datetime import datetime

from services.authn.admission import Admission
from services.authn.journal import Act, Journal
from services.authn.model import Principal, TrustedIssuer
from services.authn.ports import IssuerRecords
from services.authn.rules import checked_issuer
from services.common.call import Call
from services.common.clock import Clock
from services.common.errors import AlreadyExists, FailedPrecondition, NotFound

_CONFIGURED = "This issuer comes from authn's configuration file; change it there and restart authn."


class IssuerAdmin:
    """Trusts issuers, lists, enables, disables and forgets them."""

    def __init__(self, records: IssuerRecords, own: str, admission: Admission, journal: Journal, clock: Clock) -> None:
        """``own``: the issuer of our own access tokens."""
        self._records = records
        self._own = own
        self._admission = admission
        self._journal = journal
        self._clock = clock

    async def create(self, asked: TrustedIssuer, call: Call) -> TrustedIssuer:
        """Trusts an issuer from now on.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: what was asked for breaks the rules; lists every problem.
            AlreadyExists: it is trusted already.
            Unavailable: nothing was changed.
        """
        act = await self._admission.admit("issuers", "create", "", call)
        issuer = await self._journal.refusing(act, lambda: checked_issuer(asked, self._own))
        act, _ = await self._admission.may_grant(act, _anybody(issuer, self._clock.now()))

        async def add() -> None:
            if not await self._records.add(issuer, self._clock.now()):
                raise AlreadyExists("This issuer is trusted already; `kubegate issuers list` shows how.")

        details = {
            "issuer": issuer.issuer,
            "audience": issuer.audience,
            "jwks_uri": issuer.jwks_uri,
            "algorithms": ",".join(issuer.algorithms),
            "default_roles": ",".join(issuer.default_roles),
            "roles": ",".join(f"{theirs}={ours}" for theirs, ours in issuer.role_map.items())[:4000],
            "scopes": ",".join(f"{scope}={role}" for scope, role in issuer.scope_map.items())[:4000],
            "permissions_claim": issuer.permissions_claim,
            "tenant": issuer.tenant or issuer.tenant_claim,
        }
        await self._journal.change(act.about(details), add, undo=lambda: self._records.delete(issuer.issuer))
        return issuer

    async def list(self, call: Call) -> Sequence[TrustedIssuer]:
        """All trusted issuers, those of the configuration too.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: the reading could not be recorded.
        """
        act = await self._admission.admit("issuers", "list", "", call)
        issuers = self._records.list()
        await self._journal.done(act)
        return issuers

    async def set_enabled(self, name: str, enabled: bool, call: Call) -> TrustedIssuer:
        """Enables or disables an issuer, with everything that it says, effective at once.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            NotFound: it is not trusted.
            FailedPrecondition: it comes from the configuration; or it is disabled, and that is not recorded.
            Unavailable: nothing was changed.
        """
        act, before = await self._existing("enable" if enabled else "disable", name, call)

        async def change() -> TrustedIssuer:
            changed = await self._records.set_enabled(name, enabled)
            if changed is None:
                raise NotFound("This issuer is not trusted any more.")
            return changed

        widens = enabled and not before.enabled
        if widens:
            act, _ = await self._admission.may_grant(act, _anybody(before, self._clock.now()))
        undo = (lambda: self._records.set_enabled(name, False)) if widens else None
        return await self._journal.change(act, change, undo=undo)

    async def delete(self, name: str, call: Call) -> None:
        """Ends the trust in an issuer, effective at once. Raises as ``set_enabled``."""
        act, _ = await self._existing("delete", name, call)
        await self._journal.change(act, lambda: self._records.delete(name))

    async def _existing(self, verb: str, name: str, call: Call) -> tuple[Act, TrustedIssuer]:
        act = await self._admission.admit("issuers", "delete" if verb == "delete" else "update", "", call, verb)

        def find() -> TrustedIssuer:
            issuer = self._records.find(name)
            if issuer is None:
                raise NotFound("This issuer is not trusted; `kubegate issuers list` shows those that are.")
            if issuer.configured:
                raise FailedPrecondition(_CONFIGURED)
            return issuer

        issuer = await self._journal.refusing(act, find)
        return act.about({"issuer": issuer.issuer}), issuer


def _anybody(issuer: TrustedIssuer, now: datetime) -> Principal:
    """The most that the issuer can say of somebody: whom policy binds, and how, is not asked; so it takes all there is,
    or ``kubegate:grants:any``."""
    return Principal("*", "", "jwt", now, permissions=("k8s:*", "kubegate:*"), issuer=issuer.issuer)
