"""Temporary elevation (R17): asked for by one person, approved by another who may and who holds it all.

An elevation gives a role in some namespaces for some time. It ends by itself, by revocation, and with the role;
the credential's own caps and every deny rule hold for it too. Whoever is of a tenant deals with the elevations of
that tenant only (R13).
"""

from dataclasses import dataclass

from services.authz.admission import Admission
from services.authz.in_force import InForce
from services.authz.policy.grants import missing_for_role
from services.authz.policy.model import Principal
from services.authz.policy.scope import Scope
from services.authz.ports import Act, Caller, Record, State, Store
from services.common.clock import Clock
from services.common.errors import (
    Conflict,
    DomainError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from services.common.ids import uuid7

SHORTEST, LONGEST = 60.0, 24 * 3600.0
"""Seconds that an elevation may last."""

PENDING = 3600.0
"""Seconds for which a request may be approved."""

MAX_OPEN = 20
"""Open requests and elevations of one person."""

MAX_PATTERNS = 100
MAX_JUSTIFICATION = 1_000
MAX_LISTED = 1_000

_AREA = "elevations"


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for. ``duration`` is in seconds."""

    role: str
    scope: Scope
    duration: float
    justification: str


class Elevations:
    """Requests, approves, revokes and lists elevations."""

    def __init__(self, admission: Admission, in_force: InForce, store: Store, clock: Clock) -> None:
        self._admission = admission
        self._in_force = in_force
        self._store = store
        self._clock = clock

    async def request(self, caller: Caller, token: str, wish: Wish) -> Record:
        """Stores a request of the token's principal.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: it lacks something, or the policy has no such role.
            ResourceExhausted: the person has too many open ones.
            Unavailable: nothing was stored.
        """
        act = await self._admission.admit(caller, token, _AREA, "request")
        now = self._clock.now().timestamp()
        problem = self._problem(wish)
        if problem:
            raise await self._refuse(act, InvalidArgument(problem))
        person = act.principal
        record = Record(
            id=uuid7(),
            state=State.REQUESTED,
            issuer=person.issuer,
            subject=person.subject,
            tenant=person.tenant,
            role=wish.role,
            scope=wish.scope,
            duration=wish.duration,
            justification=wish.justification,
            requested_at=now,
            expires=now + PENDING,
        )

        async def apply() -> None:
            if not await self._store.add(record, at_most=MAX_OPEN):
                raise ResourceExhausted(f"{MAX_OPEN} requests of this person are open; wait until some end.")

        await self._admission.change(act, apply, metadata=_described(record))
        return record

    async def approve(self, caller: Caller, token: str, elevation_id: str) -> Record:
        """Puts a request in force from now on.

        Raises:
            Unauthenticated, PermissionDenied: R15; the approver asked for it, or does not hold it.
            NotFound: there is no such elevation of the approver's tenant.
            Conflict: it is no longer waiting.
            Unavailable: nothing was changed.
        """
        act = await self._admission.admit(caller, token, _AREA, "approve")
        record = await self._existing(act, elevation_id)
        now = self._clock.now().timestamp()
        expires = now + record.duration
        approver = act.principal
        if (approver.issuer, approver.subject) == (record.issuer, record.subject):
            raise await self._refuse(act, PermissionDenied("Nobody approves an elevation of their own."), record)
        if record.role not in self._in_force.engine.profiles.roles:
            raise await self._refuse(act, Conflict("The policy no longer has this role."), record)
        missing = missing_for_role(self._in_force.engine, approver, record.role, record.scope, expires)
        if missing:
            error = PermissionDenied(
                f"Nobody grants beyond what they hold: {missing} is missing, for these namespaces and this long."
            )
            raise await self._refuse(act, error, record)

        async def apply() -> None:
            if not await self._store.approve(record.id, _name(approver), now, expires):
                raise Conflict("The request has been decided, or has lapsed; `kubegate elevation list` shows it.")
            await self._in_force.refresh()

        async def undo() -> None:
            await self._store.revoke(record.id, "service/authz", now)
            await self._in_force.refresh()

        await self._admission.change(act, apply, undo=undo, metadata=_described(record))
        return await self._existing(act, record.id)

    async def revoke(self, caller: Caller, token: str, elevation_id: str) -> Record:
        """Ends an elevation at once, or refuses a request.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            NotFound: there is no such elevation of the caller's tenant.
            Conflict: it has ended.
        """
        act = await self._admission.admit(caller, token, _AREA, "revoke")
        record = await self._existing(act, elevation_id)

        async def apply() -> None:
            if not await self._store.revoke(record.id, _name(act.principal), self._clock.now().timestamp()):
                raise Conflict("The elevation has ended already.")
            await self._in_force.refresh()

        await self._admission.change(act, apply, metadata=_described(record))
        return await self._existing(act, record.id)

    async def list(self, caller: Caller, token: str, open_only: bool) -> list[Record]:
        """Elevations, newest first; for whoever is of a tenant, of that tenant.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: the reading could not be recorded.
        """
        act = await self._admission.admit(caller, token, _AREA, "list")
        open_at = self._clock.now().timestamp() if open_only else None
        records = await self._store.records(act.principal.tenant or None, MAX_LISTED, open_at=open_at)
        await self._admission.done(act)
        return records

    def _problem(self, wish: Wish) -> str:
        if wish.role not in self._in_force.engine.profiles.roles:
            return "The policy has no role of this name."
        if wish.scope.empty:
            return "An elevation names its namespaces, or says that it is for all of them."
        if len(wish.scope.patterns()) > MAX_PATTERNS:
            return f"An elevation names at most {MAX_PATTERNS} namespaces."
        if not SHORTEST <= wish.duration <= LONGEST:
            return "An elevation lasts from 1 minute to 24 hours."
        text = wish.justification
        if not text.strip() or len(text) > MAX_JUSTIFICATION or not text.isprintable():
            return f"An elevation has a justification of one line, at most {MAX_JUSTIFICATION} characters."
        return ""

    async def _existing(self, act: Act, elevation_id: str) -> Record:
        record = await self._store.find(elevation_id)
        tenant = act.principal.tenant
        if record is None or (tenant and record.tenant != tenant):
            raise await self._refuse(act, NotFound("There is no elevation with this id."))
        return record

    async def _refuse(self, act: Act, error: DomainError, record: Record | None = None) -> DomainError:
        about = (
            act
            if record is None
            else Act(
                act.caller, act.principal, act.token, act.action, act.resource, {**act.metadata, **_described(record)}
            )
        )
        await self._admission.refused(about, error)
        return error


def _name(principal: Principal) -> str:
    return f"{principal.issuer}:{principal.subject}"


def _described(record: Record) -> dict[str, str]:
    return {
        "elevation_id": record.id,
        "for": f"{record.issuer}:{record.subject}",
        "role": record.role,
        "namespaces": "(all)" if record.scope.everything else ",".join(record.scope.patterns()),
        "seconds": f"{record.duration:.0f}",
        "justification": record.justification,
    }
