"""protobuf to the domain and back. No decision is made here."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc, policy_admin_pb2
from kubegate.common.v1 import identity_pb2, lease_pb2
from services.authz.policy.explain import Step
from services.authz.policy.model import NEVER, Action, Allowed, Decision, Denied, Principal, Reason
from services.authz.policy.scope import EVERYWHERE, NOWHERE, InvalidPattern, Scope
from services.authz.ports import Caller
from services.authz.service import Answer, AuthzService
from services.common.call import current_call
from services.common.errors import InvalidArgument
from services.common.grpc_stream import serve_stream
from services.common.lease import serve_lease

MAX_LISTED = 1024
"""Actions in one ListAllowed at most."""

MAX_BATCH = 100
"""Actions in one BatchCheck at most: one record holds all of them."""

_REASONS = {
    Reason.NO_GRANT: authz_pb2.DENIAL_REASON_NO_GRANT,
    Reason.CREDENTIAL_CAP: authz_pb2.DENIAL_REASON_CREDENTIAL_CAP,
    Reason.INVALID_ACTION: authz_pb2.DENIAL_REASON_INVALID_ACTION,
    Reason.DENY_RULE: authz_pb2.DENIAL_REASON_DENY_RULE,
    Reason.CONDITION: authz_pb2.DENIAL_REASON_CONDITION,
    Reason.TENANT: authz_pb2.DENIAL_REASON_TENANT,
    Reason.DELEGATED: authz_pb2.DENIAL_REASON_DELEGATED,
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

    async def BatchCheck(self, request: authz_pb2.BatchCheckRequest, context: Any) -> authz_pb2.BatchCheckResponse:
        return await self._batch(request)

    async def BatchCheckStream(
        self, request_iterator: AsyncIterator[authz_pb2.BatchCheckStreamRequest], context: Any
    ) -> AsyncIterator[authz_pb2.BatchCheckStreamResponse]:
        async for response in serve_stream(
            request_iterator,
            self._batch,
            response_type=authz_pb2.BatchCheckStreamResponse,
            answer_type=authz_pb2.BatchCheckAnswer,
        ):
            yield response

    async def _batch(self, request: authz_pb2.BatchCheckRequest) -> authz_pb2.BatchCheckResponse:
        if not 1 <= len(request.actions) <= MAX_BATCH:
            raise InvalidArgument(f"BatchCheck takes 1 to {MAX_BATCH} actions.")
        actions = [to_action(action) for action in request.actions]
        caller = caller_of(request.source, request.request_id)
        answers = await self._service.check(caller, request.principal_token, actions)
        made = {key: from_answer(answer) for key, answer in {id(each): each for each in answers}.items()}
        return authz_pb2.BatchCheckResponse(responses=[made[id(answer)] for answer in answers])

    async def ListAllowed(self, request: authz_pb2.ListAllowedRequest, context: Any) -> authz_pb2.ListAllowedResponse:
        if len(request.actions) > MAX_LISTED:
            raise InvalidArgument(f"ListAllowed takes at most {MAX_LISTED} actions.")
        actions = [to_action(action) for action in request.actions]
        found = await self._service.list_allowed(caller_of(), request.principal_token, actions)
        response = authz_pb2.ListAllowedResponse(
            scopes=[from_scope(each.scope, each.excluding) for each in found.each],
            policy_revision=found.revision,
            lease_revision=found.lease_revision,
        )
        response.cacheable_until.FromNanoseconds(int(found.cacheable_until * 1e9))
        return response

    async def SuggestRoles(
        self, request: authz_pb2.SuggestRolesRequest, context: Any
    ) -> authz_pb2.SuggestRolesResponse:
        if len(request.actions) > MAX_BATCH or len(request.roles) > MAX_BATCH:
            raise InvalidArgument(f"SuggestRoles takes at most {MAX_BATCH} actions and as many roles.")
        actions = [to_action(action) for action in request.actions]
        found = await self._service.suggest(
            caller_of(request.source), request.principal_token, actions, tuple(request.roles)
        )
        return authz_pb2.SuggestRolesResponse(
            suggestions=[authz_pb2.RoleSuggestion(allowed=each.allowed, roles=each.roles) for each in found]
        )

    async def Explain(self, request: authz_pb2.ExplainRequest, context: Any) -> authz_pb2.ExplainResponse:
        caller = caller_of(request.source)
        explanation, revision = await self._service.explain(caller, request.principal_token, to_action(request.action))
        decision = from_decision(explanation.decision)
        decision.policy_revision = revision
        return authz_pb2.ExplainResponse(decision=decision, considered=from_steps(explanation.steps))

    async def CheckGrants(self, request: authz_pb2.CheckGrantsRequest, context: Any) -> authz_pb2.CheckGrantsResponse:
        caller = caller_of(request_id=request.request_id)
        found = await self._service.grantable(caller, request.principal_token, described(request.grantee))
        return authz_pb2.CheckGrantsResponse(
            missing=found.missing,
            rule_id=found.rule_id,
            unknown_roles=found.unknown_roles,
            policy_revision=found.revision,
        )

    async def WatchPolicy(
        self, request_iterator: AsyncIterator[authz_pb2.WatchPolicyRequest], context: Any
    ) -> AsyncIterator[authz_pb2.WatchPolicyResponse]:
        async for response in serve_lease(request_iterator, self._newest):
            yield response

    async def _newest(self, _known: int) -> authz_pb2.WatchPolicyResponse:
        revision, policy_revision = await self._service.newest()
        return authz_pb2.WatchPolicyResponse(
            answer=lease_pb2.LeaseAnswer(revision=revision), policy_revision=policy_revision
        )

    async def _check(self, request: authz_pb2.CheckRequest) -> authz_pb2.CheckResponse:
        caller = caller_of(request.source, request.request_id)
        [answer] = await self._service.check(caller, request.principal_token, [to_action(request.action)])
        return from_answer(answer)


def caller_of(source: identity_pb2.Source | None = None, request_id: str = "") -> Caller:
    """Who makes the call that is being answered."""
    call = current_call()
    address, agent = (source.address, source.user_agent) if source is not None else ("", "")
    return Caller(call.peer, call.deadline, request_id or call.request_id, address, agent)


def to_action(action: identity_pb2.Action) -> Action:
    """The action that a message asks about."""
    replicas = None
    # Looked at in this order because most actions have no attributes, and a batch has many actions.
    if action.HasField("attributes") and action.attributes.HasField("replicas"):
        replicas = action.attributes.replicas
    return Action._make(
        (
            action.group,
            action.resource,
            action.verb,
            action.subresource,
            action.namespace,
            action.name,
            action.cluster,
            action.tool,
            replicas,
        )
    )


def to_scope(message: identity_pb2.NamespaceScope) -> Scope:
    """A scope that somebody asks for.

    Raises:
        InvalidArgument: a pattern is malformed; it says which and why.
    """
    if message.excluding:
        raise InvalidArgument("namespaces: nothing can be excluded here.")
    try:
        return EVERYWHERE if message.all else Scope.of(message.patterns)
    except InvalidPattern as error:
        raise InvalidArgument(f"namespaces: {error}.") from None


def described(message: identity_pb2.Principal) -> Principal:
    """A principal that somebody describes, without being it."""
    return Principal(
        issuer=message.issuer or "kubegate",
        subject=message.subject,
        roles=tuple(message.roles),
        permissions=tuple(message.permissions),
        namespaces=to_scope(message.namespaces) if message.HasField("namespaces") else EVERYWHERE,
        tools=frozenset(message.tools),
        narrowed_to=frozenset(message.narrowed_to),
        actors=tuple((actor.issuer, actor.subject) for actor in message.actors),
        tenant=message.tenant,
        groups=tuple(message.groups),
        amr=tuple(message.amr),
        auth_time=message.auth_time.seconds if message.HasField("auth_time") else None,
        expires=message.expires_at.seconds + 1.0 if message.HasField("expires_at") else NEVER,
    )


def from_answer(answer: Answer) -> authz_pb2.CheckResponse:
    """A recorded decision as a message."""
    response = from_decision(answer.decision)
    response.policy_revision = answer.revision
    response.event_id = answer.event_id
    response.lease_revision = answer.lease_revision
    if answer.cacheable_until > 0:
        # As `FromNanoseconds` does, at a third of its time.
        until = response.allowed.cacheable_until
        until.seconds, until.nanos = divmod(int(answer.cacheable_until * 1e9), 1_000_000_000)
    return response


def from_decision(decision: Decision) -> authz_pb2.CheckResponse:
    """A decision as a message."""
    match decision:
        case Allowed():
            response = authz_pb2.CheckResponse()
            # Set in place: half the time of a message that is copied into another.
            response.allowed.rule_id, response.allowed.role = decision.rule_id, decision.role
            return response
        case Denied(reason, explanation, permission, namespace):
            missing = authz_pb2.Grant(permission=permission, namespace=namespace) if permission else None
            return authz_pb2.CheckResponse(
                denied=authz_pb2.Denied(
                    reason=_REASONS[reason], missing=missing, explanation=explanation, rule_id=decision.rule_id
                )
            )


def from_scope(scope: Scope, excluding: Scope = NOWHERE) -> identity_pb2.NamespaceScope:
    """A scope as a message."""
    message = identity_pb2.NamespaceScope(all=scope.everything, patterns=scope.patterns())
    if not scope.empty:
        message.excluding.extend(excluding.patterns())
    return message


def from_steps(steps: Sequence[Step]) -> list[policy_admin_pb2.ConsideredRule]:
    """Rules considered, as messages."""
    return [
        policy_admin_pb2.ConsideredRule(rule_id=step.rule_id, outcome=step.said, decides=step.decides) for step in steps
    ]
