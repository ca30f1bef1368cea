"""Asks authz whether an operator may read the log or attest: the operator's own token, relayed (R15)."""

from datetime import UTC, datetime

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.audit.ports import Grant
from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import PermissionDenied, Unavailable
from services.common.grpc_client import Peer
from services.common.lease import Lease

PATIENCE = 2.0
"""Seconds to wait for a lost lease to come back."""

_NEVER = datetime.fromtimestamp(0, UTC)

_DOES = {
    "read": "Reading the audit log",
    "attest": "Attesting compliance",
    "hold": "Placing and releasing legal holds",
    "retire": "Deleting events by retention",
}


class AuthzPolicy:
    """The port ``Policy`` over ``AuthzService.Check`` and a lease on its policy; run ``lease.keep``."""

    def __init__(self, authz: Peer, clock: Clock) -> None:
        self._authz = authz
        self.lease = Lease(
            authz,
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).WatchPolicy,
            authz_pb2.WatchPolicyRequest,
            # Nothing is kept here that an answer could end; whoever keeps a decision compares its revision.
            lambda response: None,
            clock,
        )

    async def check(self, verb: str, token: str, request_id: str, deadline: Deadline) -> Grant:
        action = identity_pb2.Action(group="kubegate", resource="audit", verb=verb, tool=f"audit.{verb}")
        request = authz_pb2.CheckRequest(principal_token=token, action=action, request_id=request_id)
        response: authz_pb2.CheckResponse = await self._authz.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check, request, deadline
        )
        if response.WhichOneof("outcome") != "allowed":
            why = response.denied.explanation or f"no grant has kubegate:audit:{verb}"
            raise PermissionDenied(f"{_DOES[verb]} is denied: {why}")
        until = response.allowed.cacheable_until
        return Grant(response.lease_revision, until.ToDatetime(UTC) if until.ByteSize() else _NEVER)

    async def revision(self) -> int:
        if not await self.lease.wait(PATIENCE):
            raise Unavailable("Whether policy still allows this cannot be told until the authz service answers.")
        return self.lease.revision
