"""The Authorizer port over authz's stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from google.protobuf import timestamp_pb2

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.clock import Clock
from services.common.errors import DomainError, Internal
from services.common.grpc_client import Peer
from services.common.grpc_stream import StreamClient
from services.common.lease import Lease
from services.mcp_core.adapters.peers import away_or_refused, question_deadline, source
from services.mcp_core.model import Action, Allowed, Caller, Decision, Denied, Scope, Scopes, Suggestion

MAX_LISTED = 1024
"""Actions that authz takes in one ListAllowed."""


def policy_lease(peer: Peer, saw: Callable[[int], None], clock: Clock) -> Lease:
    """The lease on authz's policy (R12); ``saw`` hears of each revision before the lease counts for it."""

    def apply(response: authz_pb2.WatchPolicyResponse) -> None:
        saw(response.answer.revision)

    return Lease(
        peer,
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).WatchPolicy,
        authz_pb2.WatchPolicyRequest,
        apply,
        clock,
    )


class AuthzAdapter:
    """Asks authz; one stream for all checks."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stream: StreamClient[authz_pb2.CheckRequest, authz_pb2.CheckResponse] = StreamClient(
            peer,
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).CheckStream,
            authz_pb2.CheckStreamRequest,
            authz_pb2.CheckItem,
        )

    async def check(self, caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        context = caller.context
        request = authz_pb2.CheckRequest(
            principal_token=caller.token,
            action=_action(action),
            source=source(context.source),
            request_id=context.request_id,
        )
        try:
            answer = await self._stream.ask(request, question_deadline(context.deadline), context.request_id)
        except DomainError as error:
            raise away_or_refused("authz", error) from None
        return _decision(answer)

    async def list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        parts = await asyncio.gather(
            *(
                self._list_allowed(caller, actions[start : start + MAX_LISTED])
                for start in range(0, len(actions), MAX_LISTED)
            )
        )
        # As old as its oldest part: what was under way while the policy changed is not kept.
        return Scopes(
            tuple(scope for part in parts for scope in part.each),
            cacheable_until=min((part.cacheable_until for part in parts), default=0.0),
            lease_revision=min((part.lease_revision for part in parts), default=0),
        )

    async def _list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        request = authz_pb2.ListAllowedRequest(
            principal_token=caller.token, actions=[_action(action) for action in actions]
        )
        try:
            answer = await self._peer.unary(
                lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).ListAllowed,
                request,
                question_deadline(caller.context.deadline),
                (("request-id", caller.context.request_id),),
            )
        except DomainError as error:
            raise away_or_refused("authz", error) from None
        if len(answer.scopes) != len(actions):
            raise Internal
        return Scopes(
            tuple(Scope(scope.all, tuple(scope.patterns), tuple(scope.excluding)) for scope in answer.scopes),
            cacheable_until=_seconds(answer.cacheable_until),
            lease_revision=answer.lease_revision,
        )

    async def suggest_roles(self, caller: Caller, actions: Sequence[Action], roles: Sequence[str]) -> list[Suggestion]:
        request = authz_pb2.SuggestRolesRequest(
            principal_token=caller.token,
            actions=[_action(action) for action in actions],
            roles=roles,
            source=source(caller.context.source),
        )
        try:
            answer = await self._peer.unary(
                lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).SuggestRoles,
                request,
                question_deadline(caller.context.deadline),
                (("request-id", caller.context.request_id),),
            )
        except DomainError as error:
            raise away_or_refused("authz", error) from None
        if len(answer.suggestions) != len(actions):
            raise Internal
        return [Suggestion(each.allowed, tuple(each.roles)) for each in answer.suggestions]

    async def close(self) -> None:
        await self._stream.close()


def _action(action: Action) -> identity_pb2.Action:
    permission = action.permission
    message = identity_pb2.Action(
        cluster=action.cluster,
        verb=permission.verb,
        group=permission.group,
        resource=permission.resource,
        subresource=permission.subresource,
        namespace=action.namespace,
        name=action.name,
        tool=action.tool,
    )
    if action.replicas is not None:
        message.attributes.replicas = action.replicas
    return message


def _decision(answer: authz_pb2.CheckResponse) -> Decision:
    if answer.WhichOneof("outcome") == "allowed":
        allowed = answer.allowed
        return Allowed(
            allowed.rule_id,
            allowed.role,
            answer.policy_revision,
            answer.event_id,
            cacheable_until=_seconds(allowed.cacheable_until),
            lease_revision=answer.lease_revision,
        )
    # No outcome at all counts as a denial: closed by default.
    denied = answer.denied
    reason = authz_pb2.DenialReason.Name(denied.reason).removeprefix("DENIAL_REASON_").lower()
    return Denied(
        reason=reason,
        explanation=denied.explanation or "Policy denies this.",
        missing_permission=denied.missing.permission,
        missing_namespace=denied.missing.namespace,
        revision=answer.policy_revision,
        event_id=answer.event_id,
    )


def _seconds(when: timestamp_pb2.Timestamp) -> float:
    return when.seconds + when.nanos / 1e9
