"""One request, one forward pass. REST and MCP both come through here; nothing else executes a tool.

0. The edge has checked size, rate, Host and Origin, and made the ``RequestContext``.
1. authn proves the credential; from here on only the principal and its short-lived token exist.
2. Tool and arguments resolve to an action; what is unknown or incomplete is refused, nothing is guessed.
3. authz decides the action. What changes something then looks ahead, which may show further permissions that authz
   decides, and that a person has to confirm (``gate``).
4. A mutation's intent is durable before anything happens.
5. The tool runs against the cluster as the caller, within what the deadline leaves beside the record.
6. The outcome is durable before the answer leaves; refusals of steps 2 to 5 are outcomes too.
7. The answer, or one of our errors: never the text of an unexpected exception.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import (
    Cancelled,
    DeadlineExceeded,
    DomainError,
    Internal,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.log import get_logger
from services.mcp_core.clusters import ARGUMENT, Clusters
from services.mcp_core.confirmation import Asking, Confirmations
from services.mcp_core.decided import denials, write_decision
from services.mcp_core.errors import ActionDenied, InputRequired, NotSent, OutcomeUnknown
from services.mcp_core.gate import Change, Gate, in_time
from services.mcp_core.journal import RECORD_SECONDS, Entry, Journal, bounded
from services.mcp_core.model import (
    ALONE,
    AccessToken,
    Action,
    Allowed,
    Caller,
    Credential,
    Dialogue,
    Grant,
    Kind,
    RequestContext,
    Result,
    ToolAnswer,
)
from services.mcp_core.naming import impersonation
from services.mcp_core.offers import Offer, Offers
from services.mcp_core.once import Once, outcome_of
from services.mcp_core.placement import Denial, Placement, namespace_missing, place, placed, resolve
from services.mcp_core.ports import (
    Authenticator,
    Authorizer,
    Cluster,
    ClusterSession,
    Impersonation,
    Keeper,
    Recorder,
    Sealer,
)
from services.mcp_core.tools import check_output, split_controls, validate
from services.mcp_core.tools.base import Arguments, Invocation, Tool

T = TypeVar("T")

STALE_SECONDS = 1.0
"""How long ago what is executed may have been decided: as long as a revocation or new policy takes to be known (R12).
A look ahead that took longer is followed by another decision."""

NOT_AT_ALL = Asking()
"""Of interfaces that cannot ask for a confirmation."""

log = get_logger("pipeline")


class Pipeline:
    """The decision path of the core. Safe for many requests of one event loop."""

    def __init__(
        self,
        *,
        registry: Mapping[str, Tool],
        authenticator: Authenticator,
        authorizer: Authorizer,
        recorder: Recorder,
        clusters: Sequence[Cluster],
        keeper: Keeper,
        sealer: Sealer,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._clusters = Clusters(clusters, clock)
        self._offers = Offers(registry, authorizer, self._clusters)
        self._journal = Journal(recorder, clock)
        self._once = Once(keeper, clock)
        self._gate = Gate(authorizer, Confirmations(sealer, clock), self._once)

    async def authenticate(self, context: RequestContext, credential: Credential) -> Caller:
        """Step 1. The caller of this method drops the credential when it returns or raises.

        Raises:
            Unauthenticated: authn refused it, and has recorded that.
            ResourceExhausted, Unavailable: authn did not answer; the core has recorded that.
        """
        return await self._before_principal(
            context, "authenticate", lambda: self._authenticator.authenticate(credential, context)
        )

    async def issue_token(self, context: RequestContext, grant: Grant) -> AccessToken:
        """A JWT for a password, or for another token. Raises as ``authenticate``, and what the port says."""
        return await self._before_principal(
            context, "issue_token", lambda: self._authenticator.issue_token(grant, context)
        )

    async def refuse_unproven(self, context: RequestContext, reason: str) -> None:
        """Records a request that is refused without being shown to authn (R22).

        Raises:
            Unavailable: it cannot be recorded.
        """
        await self._journal.anonymous(context, Kind.AUTHENTICATION, "authenticate", Result.FAILURE, reason)

    async def refuse_throttled(self, context: RequestContext, source: str) -> None:
        """Records, or counts for the record, a request over the limit of its source. Raises as above."""
        await self._journal.throttled(context, source, "too many unauthenticated requests from this address")

    async def refuse_malformed(self, context: RequestContext, action: str) -> None:
        """Records a request for authentication that is too malformed to be shown to authn. Raises as above."""
        await self._journal.anonymous(context, Kind.AUTHENTICATION, action, Result.FAILURE, "malformed request")

    async def refuse_foreign(self, context: RequestContext, reason: str, details: Mapping[str, str]) -> None:
        """Records a request for another host or from a foreign page (step 0). Raises as above."""
        await self._journal.anonymous(context, Kind.SECURITY_VIOLATION, "http request", Result.FAILURE, reason, details)

    async def refuse_unserved(self, context: RequestContext, reason: str, details: Mapping[str, str]) -> None:
        """Records a request for nothing that there is, or that is no request at all. Raises as above."""
        await self._journal.anonymous(context, Kind.MCP_REQUEST, "http request", Result.FAILURE, reason, details)

    def in_background(self, record: Coroutine[Any, Any, None]) -> None:
        """A record that nobody waits for."""
        self._journal.in_background(record)

    async def list_offers(self, caller: Caller, action: str) -> list[Offer]:
        """``offers`` for an interface that answers with them, recorded as ``action`` before they are returned.

        Raises:
            DomainError: as ``offers``, recorded all the same; Unavailable where the record failed.
        """
        try:
            found = await self.offers(caller)
        except Exception as error:
            failure = _public(error, caller.context.request_id)
            await self.note(caller, action, result_of(failure), failure.public_message)
            raise failure from error
        await self.note(caller, action, Result.SUCCESS)
        return found

    async def offers(self, caller: Caller) -> list[Offer]:
        """What the caller may use. Derived from authz, enforced at ``call``. Raises as ``Offers.of``."""
        return await self._offers.of(caller)

    async def note(self, caller: Caller, action: str, result: Result, error: str = "", violation: str = "") -> None:
        """Records a request other than a tool call, such as tools/list, before its answer leaves. ``violation``: which,
        where no honest client sends it.

        Raises:
            Unavailable: it is not durable; the answer is to be withheld.
        """
        entry = self._journal.open(caller, action)
        entry.result, entry.error = result, error
        if violation:
            entry.kind = Kind.SECURITY_VIOLATION
            entry.metadata["violation_type"] = violation
        await self._journal.close(entry)

    def gone(self, caller: Caller, action: str) -> None:
        """Records a request whose client went away before it was complete; nobody waits for that."""
        entry = self._journal.open(caller, action)
        entry.result, entry.error = Result.FAILURE, "The client went away before its request was complete."
        self._journal.abandon(entry)

    async def call(
        self,
        caller: Caller,
        tool_name: str,
        arguments: Mapping[str, Any],
        asking: Asking = NOT_AT_ALL,
        dialogue: Dialogue = ALONE,
    ) -> ToolAnswer:
        """Steps 2 to 7 for one tool. ``asking``: how the client can be asked for a confirmation; ``dialogue``: what
        else it can be asked, and how it hears of progress.

        Raises:
            ConfirmationNeeded: a person has to confirm this first.
            DomainError: with a message for the caller. What was refused, broke or was cancelled has been
                recorded all the same; ``NotRecorded`` means executed but not known to be recorded (R20).
        """
        entry = self._journal.open(caller, tool_name)
        answer: ToolAnswer | None = None
        failure: DomainError | None = None
        try:
            answer = await self._decide_and_execute(entry, caller, tool_name, arguments, asking, dialogue)
        except asyncio.CancelledError:
            entry.error = "The caller went away before the call was finished."
            if not entry.executing:
                entry.result = Result.FAILURE
            elif entry.made:
                entry.result = Result.SUCCESS
            self._close_claim(entry, None, None)
            self._journal.abandon(entry)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded and becomes one of ours
            failure = _settle(entry, error)
        self._close_claim(entry, answer, failure)
        if failure is not None and entry.intent_id and not entry.executing:
            # The intent may be durable although nobody told us: close it, but do not wait for a store that is away.
            self._journal.abandon(entry)
            raise failure
        await self._journal.close(entry)  # 6
        if answer is None:
            raise failure or Internal()
        return answer  # 7

    async def drain(self, seconds: float) -> None:
        """Waits for records in flight, at shutdown."""
        await self._journal.drain(seconds)
        await self._once.drain(seconds)

    async def _decide_and_execute(
        self,
        entry: Entry,
        caller: Caller,
        tool_name: str,
        given: Mapping[str, Any],
        asking: Asking,
        dialogue: Dialogue,
    ) -> ToolAnswer:
        tool = self._registry.get(tool_name)  # 2
        if tool is None:
            known = "tools/list, or GET /mcp/resources, shows those that there are for you"
            raise ActionDenied(f"There is no tool {bounded(tool_name, 64)!r} that you may use; {known}.")
        entry.resource = tool.permission.resource
        controls, arguments = split_controls(validate(tool, given))
        entry.mutation = not tool.read_only and not controls.dry_run
        entry.metadata["cluster"] = str(arguments.get(ARGUMENT, ""))
        target, arguments = self._clusters.of(arguments)
        cluster = target.cluster
        entry.metadata["cluster"] = cluster.name
        kind = await target.catalog.find(arguments["kind"], caller.context.deadline) if tool.any_kind else None
        action = resolve(cluster.name, tool, arguments, kind)
        entry.resource = action.permission.resource
        entry.namespace = action.namespace
        if action.name:
            entry.resource += f"/{action.name}"
        needs = tool.needs(arguments)
        checked = [str(permission) for permission in (action.permission, *(need.permission for need in needs))]
        entry.metadata |= {"permission_check": ",".join(checked), "arguments": _further(tool.recorded(arguments))}
        entry.metadata |= {"dry_run": "true" if controls.dry_run else "", "idempotency_key": controls.idempotency_key}

        async with denials(self._authorizer, entry, placed(action, needs)):
            placement = await place(  # 3
                self._authorizer, cluster, caller, tool, action, kind=kind, needs=needs
            )
        write_decision(entry, placement)

        deadline = caller.context.deadline.child(RECORD_SECONDS)

        decided_at = self._clock.monotonic()
        still_allowed = self._asking_again(caller, placed(action, needs))
        call = Invocation(
            arguments,
            placement.namespaces,
            _session(cluster, caller, placement, deadline),
            kind,
            placement.granted,
            still_allowed,
            deadline,
            controls.dry_run,
            dialogue=replace(dialogue, report=None),
            missing=lambda name: namespace_missing(self._authorizer, cluster, caller, replace(action, namespace=name)),
        )
        if not tool.read_only:
            passed = await self._gate.admit(entry, Change(caller, tool, controls, asking, call, placement))
            if isinstance(passed, ToolAnswer):
                return passed
            session = _session(cluster, caller, passed.placement, deadline)
            still_allowed = self._asking_again(caller, placed(action, (*needs, *passed.invocation.plan.needs)))
            call = replace(passed.invocation, cluster=session, still_allowed=still_allowed)
            if self._clock.monotonic() - decided_at > STALE_SECONDS:
                async with denials(self._authorizer, entry, [action]):
                    await still_allowed()
        if entry.mutation or tool.waits(arguments):
            await self._journal.intent(entry)  # 4
            # Nothing is told of a call before it is on record (R19).
            call = replace(call, dialogue=dialogue, leaves=entry.leaves)

        entry.executing = True
        structured = await in_time(tool.run(call), deadline)  # 5
        check_output(tool, structured)
        answer = ToolAnswer(structured, tool.text(structured), tool.blocks(structured) if tool.blocks else ())
        entry.result = Result.SUCCESS
        return answer

    def _close_claim(self, entry: Entry, answer: ToolAnswer | None, failure: DomainError | None) -> None:
        """Sees to it that the outcome is stored beside the idempotency key when its record is durable (R20)."""
        claim_id = entry.claim_id
        if not claim_id:
            return
        if not entry.executing or (isinstance(failure, NotSent) and not entry.left):
            self._once.release(claim_id)
            return
        outcome = outcome_of(entry, answer, failure)
        entry.when_durable = lambda: self._once.settle(claim_id, outcome)

    def _asking_again(self, caller: Caller, actions: Sequence[Action]) -> Callable[[], Awaitable[None]]:
        """What asks policy again about all that a call cannot do without, and raises Denial."""

        async def ask() -> None:
            # A decision that is kept says nothing of the credential: once authn no longer vouches for that, authz,
            # which verifies the token anew, has to say.
            anew = not self._authenticator.vouches(caller)
            for action in actions:
                decision = await self._authorizer.check(caller, action, anew=anew)
                if not isinstance(decision, Allowed):
                    raise Denial(decision)

        return ask

    async def _before_principal(self, context: RequestContext, action: str, question: Callable[[], Awaitable[T]]) -> T:
        try:
            return await question()
        except Unauthenticated:
            raise
        except Exception as error:
            failure = _public(error, context.request_id)
            await self._journal.anonymous(context, Kind.MCP_REQUEST, action, Result.ERROR, failure.public_message)
            raise failure from error


def _session(cluster: Cluster, caller: Caller, placement: Placement, deadline: Deadline) -> ClusterSession:
    if placement.own_account:
        # No role lets a caller list only some namespaces; authz has decided each of these names.
        return cluster.session(None, deadline)
    return cluster.session(_impersonate(caller, placement.roles), deadline)


def _impersonate(caller: Caller, roles: tuple[str, ...]) -> Impersonation:
    """The caller in the groups of every role that allowed a part of the call (R2)."""
    principal = caller.principal
    each = [impersonation(principal.issuer, principal.subject, role, caller.context.request_id) for role in roles]
    return replace(each[0], groups=tuple(group for one in each for group in one.groups))


def _further(arguments: Arguments) -> str:
    """The arguments that no other field of the record shows, as compact JSON."""
    rest = {key: value for key, value in arguments.items() if key not in ("name", "namespace")}
    return bounded(json.dumps(rest, ensure_ascii=False, separators=(",", ":"), default=str)) if rest else ""


def result_of(error: DomainError) -> Result:
    """How a request ended that failed before anything was executed: refused, or not able to be decided."""
    away = isinstance(error, Unavailable | DeadlineExceeded | Internal | ResourceExhausted)
    return Result.ERROR if away else Result.FAILURE


def _settle(entry: Entry, error: Exception) -> DomainError:
    """Writes an error into the entry and returns what the caller is told."""
    failure = _public(error, entry.caller.context.request_id)
    entry.error = failure.public_message
    if entry.left:
        failure.public_message += f" {entry.left}"
        entry.result = Result.SUCCESS if entry.made else Result.UNKNOWN
    elif isinstance(failure, PermissionDenied | Unauthenticated | InputRequired) or not entry.executing:
        entry.result = result_of(failure)
    elif isinstance(failure, NotSent):
        entry.result = Result.ERROR
    elif entry.mutation and isinstance(failure, Unavailable | DeadlineExceeded | OutcomeUnknown | Cancelled | Internal):
        entry.result = Result.UNKNOWN
    else:
        entry.result = Result.ERROR
    return failure


def _public(error: Exception, request_id: str) -> DomainError:
    if isinstance(error, DomainError):
        return error
    log.error("unexpected error", request_id=request_id, exc_info=error)
    return Internal()
