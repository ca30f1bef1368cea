"""Administration: protobuf to the domain and back. No decision is made here."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.authz.v1 import elevation_pb2, elevation_pb2_grpc, policy_admin_pb2, policy_admin_pb2_grpc
from services.authz.elevations import Elevations, Wish
from services.authz.policy.document import Problem
from services.authz.policy.model import Allowed
from services.authz.policy_admin import PolicyAdmin
from services.authz.ports import Adopted, Record, State
from services.authz.servicer import caller_of, described, from_scope, from_steps, to_action, to_scope
from services.common.call import PRINCIPAL_TOKEN_METADATA, current_call
from services.common.clock import Clock

_STATES = {
    State.REQUESTED: elevation_pb2.ELEVATION_STATE_REQUESTED,
    State.ACTIVE: elevation_pb2.ELEVATION_STATE_ACTIVE,
    State.REVOKED: elevation_pb2.ELEVATION_STATE_REVOKED,
}


class PolicyAdminServicer(policy_admin_pb2_grpc.PolicyAdminServiceServicer):
    """kubegate.authz.v1.PolicyAdminService."""

    def __init__(self, admin: PolicyAdmin) -> None:
        self._admin = admin

    async def GetPolicy(
        self, request: policy_admin_pb2.GetPolicyRequest, context: Any
    ) -> policy_admin_pb2.GetPolicyResponse:
        if request.number:
            kept, content = await self._admin.earlier(caller_of(), _token(), request.number)
            earlier = policy_admin_pb2.GetPolicyResponse(revision=kept.revision, content=content)
            earlier.adopted_at.FromNanoseconds(int(kept.at * 1e9))
            return earlier
        current = await self._admin.get(caller_of(), _token())
        response = policy_admin_pb2.GetPolicyResponse(
            revision=current.revision, content=current.content, rejected=_problems(current.rejected)
        )
        response.adopted_at.FromDatetime(current.adopted_at)
        return response

    async def ValidatePolicy(
        self, request: policy_admin_pb2.ValidatePolicyRequest, context: Any
    ) -> policy_admin_pb2.ValidatePolicyResponse:
        problems, revision = await self._admin.validate(caller_of(), _token(), request.content)
        return policy_admin_pb2.ValidatePolicyResponse(problems=_problems(problems), revision=revision)

    async def ReloadPolicy(
        self, request: policy_admin_pb2.ReloadPolicyRequest, context: Any
    ) -> policy_admin_pb2.ReloadPolicyResponse:
        revision, previous, problems = await self._admin.reload(caller_of(), _token())
        return policy_admin_pb2.ReloadPolicyResponse(
            revision=revision, previous_revision=previous, problems=_problems(problems)
        )

    async def ListPolicies(
        self, request: policy_admin_pb2.ListPoliciesRequest, context: Any
    ) -> policy_admin_pb2.ListPoliciesResponse:
        found = await self._admin.history(caller_of(), _token())
        return policy_admin_pb2.ListPoliciesResponse(policies=[_adopted(policy) for policy in found])

    async def RollbackPolicy(
        self, request: policy_admin_pb2.RollbackPolicyRequest, context: Any
    ) -> policy_admin_pb2.RollbackPolicyResponse:
        policy, previous = await self._admin.rollback(caller_of(), _token(), request.number)
        return policy_admin_pb2.RollbackPolicyResponse(policy=_adopted(policy), previous_revision=previous)

    async def DiffPolicy(
        self, request: policy_admin_pb2.DiffPolicyRequest, context: Any
    ) -> policy_admin_pb2.DiffPolicyResponse:
        principals = [described(principal) for principal in request.principals]
        problems, changes = await self._admin.diff(caller_of(), _token(), request.candidate, principals)
        return policy_admin_pb2.DiffPolicyResponse(
            problems=_problems(problems),
            changes=[
                policy_admin_pb2.PolicyChange(
                    who=change.who,
                    permission=change.permission,
                    before=from_scope(change.before.scope, change.before.excluding),
                    after=from_scope(change.after.scope, change.after.excluding),
                )
                for change in changes
            ],
        )

    async def ExplainPrincipal(
        self, request: policy_admin_pb2.ExplainPrincipalRequest, context: Any
    ) -> policy_admin_pb2.ExplainPrincipalResponse:
        explanation, revision = await self._admin.explain(
            caller_of(request.source), _token(), described(request.principal), to_action(request.action)
        )
        decision = explanation.decision
        return policy_admin_pb2.ExplainPrincipalResponse(
            allowed=isinstance(decision, Allowed),
            rule_id=decision.rule_id,
            explanation="" if isinstance(decision, Allowed) else decision.explanation,
            considered=from_steps(explanation.steps),
            policy_revision=revision,
        )


def _adopted(policy: Adopted) -> policy_admin_pb2.AdoptedPolicy:
    message = policy_admin_pb2.AdoptedPolicy(
        number=policy.number, revision=policy.revision, by=policy.by, how=policy.how
    )
    message.adopted_at.FromNanoseconds(int(policy.at * 1e9))
    return message


class ElevationServicer(elevation_pb2_grpc.ElevationServiceServicer):
    """kubegate.authz.v1.ElevationService."""

    def __init__(self, elevations: Elevations, clock: Clock) -> None:
        self._elevations = elevations
        self._clock = clock

    async def RequestElevation(
        self, request: elevation_pb2.RequestElevationRequest, context: Any
    ) -> elevation_pb2.RequestElevationResponse:
        duration = request.duration.seconds + request.duration.nanos / 1e9
        wish = Wish(request.role, to_scope(request.namespaces), duration, request.justification)
        record = await self._elevations.request(caller_of(), _token(), wish)
        return elevation_pb2.RequestElevationResponse(elevation=self._message(record))

    async def ApproveElevation(
        self, request: elevation_pb2.ApproveElevationRequest, context: Any
    ) -> elevation_pb2.ApproveElevationResponse:
        record = await self._elevations.approve(caller_of(), _token(), request.id)
        return elevation_pb2.ApproveElevationResponse(elevation=self._message(record))

    async def RevokeElevation(
        self, request: elevation_pb2.RevokeElevationRequest, context: Any
    ) -> elevation_pb2.RevokeElevationResponse:
        record = await self._elevations.revoke(caller_of(), _token(), request.id)
        return elevation_pb2.RevokeElevationResponse(elevation=self._message(record))

    async def ListElevations(
        self, request: elevation_pb2.ListElevationsRequest, context: Any
    ) -> elevation_pb2.ListElevationsResponse:
        records = await self._elevations.list(caller_of(), _token(), request.open_only)
        return elevation_pb2.ListElevationsResponse(elevations=[self._message(record) for record in records])

    def _message(self, record: Record) -> elevation_pb2.Elevation:
        over = record.state is not State.REVOKED and self._clock.now().timestamp() >= record.expires
        message = elevation_pb2.Elevation(
            id=record.id,
            state=elevation_pb2.ELEVATION_STATE_EXPIRED if over else _STATES[record.state],
            issuer=record.issuer,
            subject=record.subject,
            tenant=record.tenant,
            role=record.role,
            namespaces=from_scope(record.scope),
            justification=record.justification,
            requested_at=_stamp(record.requested_at),
            approved_by=record.approved_by,
            expires_at=_stamp(record.expires),
            revoked_by=record.revoked_by,
        )
        message.duration.FromNanoseconds(int(record.duration * 1e9))
        return message


def _token() -> str:
    return current_call().metadata.get(PRINCIPAL_TOKEN_METADATA, "")


def _problems(problems: Sequence[Problem]) -> list[policy_admin_pb2.PolicyProblem]:
    return [
        policy_admin_pb2.PolicyProblem(line=each.line, column=each.column, message=each.message) for each in problems
    ]


def _stamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp
