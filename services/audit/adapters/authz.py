"""Asks authz whether an operator may read the log or attest: the operator's own token, relayed (R15)."""

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.deadline import Deadline
from services.common.errors import PermissionDenied
from services.common.grpc_client import Peer

_DOES = {
    "read": "Reading the audit log",
    "attest": "Attesting compliance",
    "hold": "Placing and releasing legal holds",
    "retire": "Deleting events by retention",
}


class AuthzPolicy:
    """The port ``Policy`` over ``AuthzService.Check``. No decision is cached."""

    def __init__(self, authz: Peer) -> None:
        self._authz = authz

    async def check(self, verb: str, token: str, request_id: str, deadline: Deadline) -> None:
        action = identity_pb2.Action(group="kubegate", resource="audit", verb=verb, tool=f"audit.{verb}")
        request = authz_pb2.CheckRequest(principal_token=token, action=action, request_id=request_id)
        response: authz_pb2.CheckResponse = await self._authz.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check, request, deadline
        )
        if response.WhichOneof("outcome") != "allowed":
            why = response.denied.explanation or f"no grant has kubegate:audit:{verb}"
            raise PermissionDenied(f"{_DOES[verb]} is denied: {why}")
