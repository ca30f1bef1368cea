"""Steps of the walk as spans and durations, and the core's counters, around the ports that the pipeline asks.

The pipeline knows nothing of it: what is counted is what passes here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Any, Self

from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.telemetry.bounded import UNKNOWN, Bounded, Closed
from services.common.telemetry.metrics import (
    AUTHENTICATION_ATTEMPTS,
    AUTHORIZATION_CHECKS,
    CACHE_LOOKUPS,
    RECORDS_LOST,
    SECURITY_VIOLATIONS,
    STEPS,
    THROTTLED,
    TOOL_CALLS,
)
from services.common.telemetry.tracing import Attributes, span
from services.mcp_core.model import (
    AccessToken,
    Action,
    Allowed,
    AuthorizationServer,
    Caller,
    Credential,
    Decision,
    Event,
    Grant,
    Kind,
    Phase,
    RequestContext,
    Scopes,
    Suggestion,
)
from services.mcp_core.ports import Authenticator, Authorizer, Recorder
from services.mcp_core.tools.base import Invocation, Structured, Tool

USERS = 200
"""Users with a name of their own in metrics; all are in the record."""

KINDS = 200
"""Kinds with a name of their own; the cluster may know more."""

_NONE: Attributes = {}
_user, _kind, _auth_type, _violation = Bounded(USERS), Bounded(KINDS), Bounded(16), Bounded(16)


@cache
def _observed(name: str) -> Any:
    return STEPS.labels(name)


class Step:
    """One step of the walk: its duration always, its span where the trace is recorded."""

    __slots__ = ("_began", "_name", "_span")

    def __init__(self, name: str, attributes: Attributes = _NONE) -> None:
        self._name = name
        self._span = span(name, attributes=attributes)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, trace)
        _observed(self._name).observe(time.perf_counter() - self._began)


class MeasuredAuthenticator:
    """Step 1."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def authenticate(self, credential: Credential, context: RequestContext) -> Caller:
        with Step("authenticate"):
            caller = await self._authenticator.authenticate(credential, context)
        CACHE_LOOKUPS.labels("principal", "hit" if caller.cached else "miss").inc()
        if caller.cached:
            # authn was not asked, so it did not count.
            AUTHENTICATION_ATTEMPTS.labels(_auth_type(caller.principal.auth_type), "success").inc()
        return caller

    def vouches(self, caller: Caller) -> bool:
        return self._authenticator.vouches(caller)

    async def issue_token(self, grant: Grant, context: RequestContext) -> AccessToken:
        with Step("issue_token"):
            return await self._authenticator.issue_token(grant, context)

    async def authorization_servers(self, deadline: Deadline) -> tuple[AuthorizationServer, ...]:
        return await self._authenticator.authorization_servers(deadline)

    def known_jwks(self) -> bytes | None:
        return self._authenticator.known_jwks()

    async def jwks(self, deadline: Deadline) -> bytes:
        return await self._authenticator.jwks(deadline)


class MeasuredAuthorizer:
    """Step 3."""

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def check(self, caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        with Step("authorize"):
            decision = await self._authorizer.check(caller, action, anew=anew)
        cached = isinstance(decision, Allowed) and decision.cached
        CACHE_LOOKUPS.labels("decision", "hit" if cached else "miss").inc()
        if cached:
            permission = action.permission
            AUTHORIZATION_CHECKS.labels(
                _user(caller.principal.user), _kind(permission.resource), permission.verb, "allowed"
            ).inc()
        return decision

    async def list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        with Step("list_allowed"):
            return await self._authorizer.list_allowed(caller, actions)

    async def suggest_roles(self, caller: Caller, actions: Sequence[Action], roles: Sequence[str]) -> list[Suggestion]:
        with Step("suggest_roles"):
            return await self._authorizer.suggest_roles(caller, actions, roles)


class MeasuredRecorder:
    """Steps 4 and 6. ``actions``: what a call may be recorded as."""

    def __init__(self, recorder: Recorder, actions: Sequence[str]) -> None:
        self._recorder = recorder
        self._action = Closed(actions)
        for result in ("success", "failure", "error"):
            AUTHENTICATION_ATTEMPTS.labels("none", result)

    async def append(self, event: Event, principal_token: str, deadline: Deadline) -> None:
        with Step("record_intent" if event.phase is Phase.INTENT else "record_outcome"):
            try:
                await self._recorder.append(event, principal_token, deadline)
            except DomainError:
                RECORDS_LOST.inc()
                raise
        if event.phase is not Phase.INTENT:
            TOOL_CALLS.labels(self._action(event.action), event.result.value).inc()
        if event.kind is Kind.SECURITY_VIOLATION:
            SECURITY_VIOLATIONS.labels(_violation(event.metadata.get("violation_type", "")), _user(event.user)).inc()

    async def append_folded(self, key: tuple[str, ...], event: Event, deadline: Deadline) -> None:
        many = int(event.metadata.get("throttled", "1"))
        if event.error.startswith("too many"):
            THROTTLED.inc(many)
        if event.kind is Kind.AUTHENTICATION:
            AUTHENTICATION_ATTEMPTS.labels("none", event.result.value).inc(many)
        elif event.kind is Kind.SECURITY_VIOLATION:
            SECURITY_VIOLATIONS.labels(_violation(event.error.replace(" ", "_")), UNKNOWN).inc()
        with Step("record_refusal"):
            await self._recorder.append_folded(key, event, deadline)


def measured_tools(registry: Mapping[str, Tool]) -> dict[str, Tool]:
    """Step 5: the same tools, each run a span of its own."""
    return {name: _measured(tool) for name, tool in registry.items()}


def _measured(tool: Tool) -> Tool:
    run = tool.run
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool.name}

    async def measured(invocation: Invocation) -> Structured:
        with Step("execute_tool", attributes):
            return await run(invocation)

    return replace(tool, run=measured)
