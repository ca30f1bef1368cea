"""protobuf to the domain and back. No decision is made here."""

from collections.abc import AsyncIterator
from typing import Any

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authz.policy.model import Action, Allowed, Decision, Denied, Reason
from services.authz.policy.scope import Scope
from services.authz.ports import Caller
from services.authz.service import AuthzService
from services.common.call import current_call
from services.common.errors import InvalidArgument
from services.common.grpc_stream import serve_stream

MAX_LISTED = 1024
"""Actions in one ListAllowed at most."""

_REASONS = {
    Reason.NO_GRANT: authz_pb2.DENIAL_REASON_NO_GRANT,
    Reason.CREDENTIAL_CAP: authz_pb2.DENIAL_REASON_CREDENTIAL_CAP,
    Reason.INVALID_ACTION: authz_pb2.DENIAL_REASON_INVALID_ACTION,
}


class AuthzServicer(authz_pb2_grpc.AuthzServiceServicer):
    """kubegate.authz.v1.AuthzService."""

    def __init__(self, service: AuthzService) -> None:
        self._service = service

    async def Check(self, request: authz_pb2.CheckRequest, context: Any) -> authz_pb2.CheckResponse:
        return await self._check(request)

    async def CheckStream(
        self, request_iterator: AsyncIterator[authz_pb2.CheckStreamRequest], context: Any
    ) -> AsyncIterator[authz_pb2.CheckStreamResponse]:
        async for response in serve_stream(
            request_iterator,
            self._check,
            response_type=authz_pb2.CheckStreamResponse,
            answer_type=authz_pb2.CheckAnswer,
        ):
            yield response

    async def ListAllowed(self, request: authz_pb2.ListAllowedRequest, context: Any) -> authz_pb2.ListAllowedResponse:
        if len(request.actions) > MAX_LISTED:
            raise InvalidArgument(f"ListAllowed takes at most {MAX_LISTED} actions.")
        call = current_call()
        caller = Caller(call.peer, call.deadline, call.request_id)
        actions = [to_action(action) for action in request.actions]
        scopes, revision = await self._service.list_allowed(caller, request.principal_token, actions)
        return authz_pb2.ListAllowedResponse(scopes=[from_scope(scope) for scope in scopes], policy_revision=revision)

    async def _check(self, request: authz_pb2.CheckRequest) -> authz_pb2.CheckResponse:
        call = current_call()
        caller = Caller(
            call.peer,
            call.deadline,
            request.request_id or call.request_id,
            request.source.address,
            request.source.user_agent,
        )
        answer = await self._service.check(caller, request.principal_token, to_action(request.action))
        response = from_decision(answer.decision)
        response.policy_revision = answer.revision
        response.event_id = answer.event_id
        return response


def to_action(action: identity_pb2.Action) -> Action:
    """The action that a message asks about."""
    return Action(
        group=action.group,
        resource=action.resource,
        verb=action.verb,
        subresource=action.subresource,
        namespace=action.namespace,
        name=action.name,
        cluster=action.cluster,
        tool=action.tool,
    )


def from_decision(decision: Decision) -> authz_pb2.CheckResponse:
    """A decision as a message. No lease stands behind it yet, so it may not be cached (R11)."""
    match decision:
        case Allowed(rule_id=rule_id, role=role):
            return authz_pb2.CheckResponse(allowed=authz_pb2.Allowed(rule_id=rule_id, role=role))
        case Denied(reason, explanation, permission, namespace):
            missing = authz_pb2.Grant(permission=permission, namespace=namespace) if permission else None
            return authz_pb2.CheckResponse(
                denied=authz_pb2.Denied(reason=_REASONS[reason], missing=missing, explanation=explanation)
            )


def from_scope(scope: Scope) -> identity_pb2.NamespaceScope:
    """A scope as a message."""
    return identity_pb2.NamespaceScope(all=scope.everything, patterns=scope.patterns())
