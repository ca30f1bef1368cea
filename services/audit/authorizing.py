"""Who may ask the audit service for more than recording (R15), and the record of every such question."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.audit.event import Event, EventType, Identity, Result
from services.audit.masking import Masker
from services.audit.ports import Ack, Draft, Filter, Grant, Log, Policy, Principals
from services.audit.service import as_identity
from services.audit.writers import AUDIT, check_party
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError, PermissionDenied, Unauthenticated
from services.common.ids import uuid7

READ = "kubegate:audit:read"
ATTEST = "kubegate:audit:attest"
HOLD = "kubegate:audit:hold"
RETIRE = "kubegate:audit:retire"


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: the certificate's SPIFFE path and the principal token beside it (R15)."""

    peer: str
    token: str
    request_id: str
    deadline: Deadline


class Authorizer:
    """Asks for certificate, token and policy, and records the answer."""

    def __init__(self, log: Log, principals: Principals, policy: Policy, clock: Clock, masker: Masker) -> None:
        self._log, self._principals, self._policy = log, principals, policy
        self._clock, self._masker = clock, masker

    async def authorize(
        self,
        reader: Reader,
        action: str,
        described: Mapping[str, str],
        permission: str = READ,
        *,
        whole_log: bool = False,
        event_id: str = "",
    ) -> Identity:
        """Who asks. Raises as ``decide``."""
        identity, _ = await self.decide(reader, action, described, permission, whole_log=whole_log, event_id=event_id)
        return identity

    async def decide(
        self,
        reader: Reader,
        action: str,
        described: Mapping[str, str],
        permission: str = READ,
        *,
        whole_log: bool = False,
        event_id: str = "",
    ) -> tuple[Identity, Grant]:
        """Certificate AND token AND policy (R15). What was asked is recorded, refused or not, before this returns.
        ``whole_log``: what is asked for speaks of events of every tenant, so nobody of one tenant may (R13).

        Raises:
            Unauthenticated, PermissionDenied: R15.
            DomainError: the decision or the record of it could not be had.
        """
        event = Event(
            event_id=event_id or uuid7(),
            timestamp=self._clock.now(),
            event_type=EventType.ADMIN,
            action=action,
            resource="audit",
            result=Result.SUCCESS,
            metadata={"operator": reader.peer, "permission": permission} | dict(described),
            request_id=reader.request_id,
        )
        # What is asked for too large to record is refused before anybody is asked.
        event.check()
        identity: Identity | None = None
        try:
            if not reader.token:
                raise Unauthenticated("The audit log needs a principal token beside the certificate.")
            identity = await self._principals.verify(reader.token)
            check_party(reader.peer, identity)
            verb = permission.rpartition(":")[2]
            grant = await self._policy.check(verb, reader.token, reader.request_id, reader.deadline)
            if whole_log and identity.tenant:
                raise PermissionDenied(
                    "Proofs and retention speak of the whole log, which nobody of one tenant may see."
                )
        except DomainError as error:
            refused = isinstance(error, PermissionDenied | Unauthenticated)
            event = replace(
                event,
                result=Result.FAILURE if refused else Result.ERROR,
                error_message=error.public_message,
            )
            await self.record(event, identity)
            raise
        await self.record(event, identity)
        return identity, grant

    async def record(self, event: Event, identity: Identity | None) -> Ack:
        """Records what audit itself has to say, as somebody or as nobody."""
        # What was looked for may be a secret that somebody fears to find.
        fields = self._masker.mask(event.fields(AUDIT))
        return await self._log.append(Draft(as_identity(identity.fields(), fields) if identity else fields))


def within(identity: Identity, filter_: Filter) -> Filter:
    """R13: the tenant's own events, whatever the filter asks for."""
    if not identity.tenant:
        return filter_
    return replace(filter_, equal={**filter_.equal, "tenant": identity.tenant})
