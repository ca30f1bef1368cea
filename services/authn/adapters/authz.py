"""authz, as authn asks it about administration: the operator's own token is relayed (R15)."""

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authn.messages import principal_to_proto
from services.authn.model import Decision, Grantable, Principal
from services.common.call import Call
from services.common.grpc_client import Peer


class AuthzPolicy:
    """Asks authz over mTLS."""

    def __init__(self, authz: Peer) -> None:
        self._authz = authz

    async def check(self, token: str, area: str, verb: str, call: Call) -> Decision:
        response: authz_pb2.CheckResponse = await self._authz.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check,
            authz_pb2.CheckRequest(
                principal_token=token,
                action=identity_pb2.Action(group="kubegate", resource=area, verb=verb),
                request_id=call.request_id,
            ),
            call.deadline,
        )
        match response.WhichOneof("outcome"):
            case "allowed":
                return Decision(True, rule=response.allowed.rule_id, policy_revision=response.policy_revision)
            case "denied":
                return Decision(False, response.denied.explanation, policy_revision=response.policy_revision)
        return Decision(False)

    async def grantable(self, token: str, grantee: Principal, call: Call) -> Grantable:
        response: authz_pb2.CheckGrantsResponse = await self._authz.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).CheckGrants,
            authz_pb2.CheckGrantsRequest(
                principal_token=token, grantee=principal_to_proto(grantee), request_id=call.request_id
            ),
            call.deadline,
        )
        return Grantable(response.missing, response.rule_id, tuple(response.unknown_roles))
