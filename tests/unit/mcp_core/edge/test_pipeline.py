"""The order of the steps, and what happens when each of them fails or is interrupted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.audit.event import Decision as AuditDecision
from services.audit.event import Event as AuditEvent
from services.audit.event import EventType
from services.audit.event import Result as AuditResult
from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.mcp_core.errors import ActionDenied, ClusterDenied, NotRecorded, NotSent, OutcomeUnknown
from services.mcp_core.model import Credential, Kind, Phase, Principal, Result
from services.mcp_core.tools.base import Invocation, Structured
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, World

CHANGE = {"name": "web", "namespace": "default", "replicas": 3}


def raising(error: BaseException) -> Any:
    async def run(invocation: Invocation) -> Structured:
        raise error

    return run


@pytest.mark.req("I2.5", "R18")
async def test_a_read_is_decided_executed_recorded_then_answered() -> None:
    world = World()
    answer = await world.pipeline.call(await world.caller(), "look", {"namespace": "default"})
    assert world.log == ["check", "execute", "record"]
    assert answer.structured == {"done": ["default"]}
    event = world.audit.last
    assert (event.kind, event.phase, event.result) == (Kind.MCP_REQUEST, Phase.WHOLE, Result.SUCCESS)
    assert (event.action, event.resource, event.namespace) == ("look", "pods", "default")
    assert event.decision is not None
    assert event.decision.allowed
    assert event.metadata["permission_check"] == "k8s:pods:list"
    assert event.metadata["authn_event_id"] == "authn-event"
    assert event.metadata["authz_event_id"] == "authz-1"
    assert event.metadata["auth_type"] == "api_key"


@pytest.mark.req("I2.5")
async def test_a_mutation_has_a_durable_intent_before_and_an_outcome_after() -> None:
    world = World()
    await world.pipeline.call(await world.caller(), "change", CHANGE)
    assert world.log == ["check", "intent", "execute", "outcome"]
    intent, outcome = world.audit.events
    assert intent.result is Result.UNKNOWN
    assert intent.deadline is not None
    assert outcome.result is Result.SUCCESS
    assert outcome.intent_id == intent.event_id
    assert outcome.resource == "deployments/web"
    assert "replicas" in outcome.metadata["arguments"]


@pytest.mark.req("I2.6")
async def test_without_a_durable_intent_nothing_is_executed() -> None:
    world = World()
    caller = await world.caller()
    world.audit.fail = lambda event: True
    with pytest.raises(Unavailable, match="Nothing was executed"):
        await world.pipeline.call(caller, "change", CHANGE)
    assert "execute" not in world.log
    assert not world.invocations


@pytest.mark.req("I2.6", "R18")
async def test_a_read_without_a_record_is_not_answered() -> None:
    world = World()
    caller = await world.caller()
    world.audit.fail = lambda event: True
    with pytest.raises(Unavailable, match="answer is withheld"):
        await world.pipeline.call(caller, "look", {"namespace": "default"})


@pytest.mark.req("R20")
async def test_executed_but_unrecorded_is_its_own_error_and_the_record_goes_on(monkeypatch: Any) -> None:
    world = World()
    caller = await world.caller()
    failures = 2

    def fail(event: Any) -> bool:
        nonlocal failures
        if event.phase is Phase.OUTCOME and failures:
            failures -= 1
            return True
        return False

    world.audit.fail = fail
    monkeypatch.setattr("services.mcp_core.journal.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("services.mcp_core.journal.OUTCOME_SECONDS", 0.0)
    with pytest.raises(NotRecorded) as caught:
        await world.pipeline.call(caller, "change", CHANGE)
    assert caught.value.retry_after is None
    assert "req-1" in caught.value.public_message
    await world.pipeline.drain(5)
    assert world.log == ["check", "intent", "execute", "outcome failed", "outcome failed", "outcome"]
    assert world.audit.last.result is Result.SUCCESS


@pytest.mark.req("I9.8")
async def test_who_had_something_changed_is_answered_once_audit_is_back(monkeypatch: Any) -> None:
    """A restart of audit that is over within the call's own time costs its caller nothing but time."""
    world = World()
    caller = await world.caller()
    failures = iter([True, True, False])
    world.audit.fail = lambda event: event.phase is Phase.OUTCOME and next(failures)
    monkeypatch.setattr("services.mcp_core.journal.FIRST_PAUSE", 0.001)
    await world.pipeline.call(caller, "change", CHANGE)
    assert world.log == ["check", "intent", "execute", "outcome failed", "outcome failed", "outcome"]
    assert world.audit.last.result is Result.SUCCESS


async def test_a_change_that_was_refused_and_not_recorded_may_be_retried() -> None:
    world = World(run=raising(NotFound("No such deployment.")))
    caller = await world.caller()
    world.audit.fail = lambda event: event.phase is Phase.OUTCOME
    with pytest.raises(Unavailable):
        await world.pipeline.call(caller, "change", CHANGE)


@pytest.mark.req("I2.4", "I2.5")
async def test_a_denial_is_recorded_and_names_the_missing_grant() -> None:
    world = World()
    with pytest.raises(ActionDenied) as caught:
        await world.pipeline.call(await world.caller(BOB), "change", CHANGE)
    assert (caught.value.permission, caught.value.namespace) == ("k8s:deployments:scale", "default")
    assert world.log == ["check", "record"]
    event = world.audit.last
    assert event.result is Result.FAILURE
    assert event.decision is not None
    assert not event.decision.allowed
    assert event.metadata["authz_event_id"] == "authz-1"


@pytest.mark.req("I2.4")
async def test_an_unknown_tool_is_refused_like_a_denied_one_and_recorded() -> None:
    world = World()
    with pytest.raises(PermissionDenied):
        await world.pipeline.call(await world.caller(), "exec\ud800" + "x" * 500, {})
    assert world.log == ["record"]
    assert world.audit.last.result is Result.FAILURE
    assert len(world.audit.last.action) <= 128
    world.audit.last.action.encode()


@pytest.mark.req("R14")
@pytest.mark.parametrize("arguments", [{}, {"namespace": "default", "extra": 1}, {"namespace": 7}])
async def test_bad_arguments_are_refused_before_anybody_is_asked_and_recorded(arguments: dict[str, Any]) -> None:
    world = World()
    with pytest.raises(InvalidArgument):
        await world.pipeline.call(await world.caller(), "look", arguments)
    assert world.log == ["record"]
    assert world.audit.last.result is Result.FAILURE


@pytest.mark.parametrize(
    ("error", "expected", "read", "mutation"),
    [
        (NotFound("gone"), NotFound, Result.ERROR, Result.ERROR),
        (ClusterDenied("no"), ClusterDenied, Result.FAILURE, Result.FAILURE),
        (NotSent("away"), NotSent, Result.ERROR, Result.ERROR),
        (Unavailable("failed"), Unavailable, Result.ERROR, Result.UNKNOWN),
        (OutcomeUnknown("lost"), OutcomeUnknown, Result.ERROR, Result.UNKNOWN),
        (TimeoutError(), DeadlineExceeded, Result.ERROR, Result.UNKNOWN),
        (ValueError("secret detail"), Internal, Result.ERROR, Result.UNKNOWN),
    ],
)
async def test_every_failure_of_a_tool_is_recorded_as_what_it_is(
    error: Exception, expected: type[Exception], read: Result, mutation: Result
) -> None:
    for tool, arguments, result in (("look", {"namespace": "default"}, read), ("change", CHANGE, mutation)):
        world = World(run=raising(error))
        with pytest.raises(expected) as caught:
            await world.pipeline.call(await world.caller(), tool, arguments)
        assert "secret" not in str(caught.value)
        assert world.audit.last.result is result
        assert world.audit.last.error
        assert "secret" not in world.audit.last.error


async def test_an_answer_that_breaks_its_schema_is_an_internal_error() -> None:
    async def wrong(invocation: Invocation) -> Structured:
        return {"other": 1}

    world = World(run=wrong)
    with pytest.raises(Internal):
        await world.pipeline.call(await world.caller(), "look", {"namespace": "default"})
    assert world.audit.last.result is Result.ERROR


@pytest.mark.req("I2.6")
@pytest.mark.parametrize(
    "error", [Unavailable("away"), ResourceExhausted("busy", retry_after=1), Unauthenticated("late")]
)
async def test_without_authz_nothing_is_executed(error: Exception) -> None:
    world = World()
    caller = await world.caller()
    world.authz.error = error
    with pytest.raises(type(error)):
        await world.pipeline.call(caller, "change", CHANGE)
    assert world.log == ["check", "record"]
    assert world.audit.last.result is (Result.FAILURE if isinstance(error, Unauthenticated) else Result.ERROR)


@pytest.mark.req("I2.6")
async def test_without_authn_nobody_is_let_in_and_it_is_recorded() -> None:
    world = World()
    world.authn.error = Unavailable("The authn service cannot be reached.")
    with pytest.raises(Unavailable):
        await world.pipeline.authenticate(world.context(), Credential(ALICE))
    assert world.audit.last.result is Result.ERROR
    assert world.audit.last.kind is Kind.MCP_REQUEST
    assert world.audit.last.user == ""


@pytest.mark.req("R18")
async def test_a_refused_credential_is_left_to_authn_to_record() -> None:
    world = World()
    with pytest.raises(Unauthenticated):
        await world.pipeline.authenticate(world.context(), Credential("wrong"))
    assert world.audit.events == []


@pytest.mark.req("R22")
async def test_what_authn_never_saw_is_recorded_by_the_core_without_a_user() -> None:
    world = World()
    await world.pipeline.refuse_unproven(world.context(), "no Authorization header")
    event = world.audit.last
    assert (event.kind, event.result, event.user) == (Kind.AUTHENTICATION, Result.FAILURE, "")
    assert event.metadata["auth_type"] == "none"


@pytest.mark.req("R26")
async def test_an_error_text_is_redacted_before_it_is_recorded() -> None:
    world = World(
        run=raising(NotFound("token: hunter2hunter2 was not found, Authorization: Bearer abcdef0123456789abcdef"))
    )
    with pytest.raises(NotFound):
        await world.pipeline.call(await world.caller(), "look", {"namespace": "default"})
    assert "abcdef0123456789abcdef" not in world.audit.last.error


@pytest.mark.req("R18", "I2.5")
async def test_a_record_is_within_audits_bounds_whatever_the_policy_is_called() -> None:
    """Ninety roles of long names and a long identity: the event that audit gets is one that it takes."""
    world = World()
    world.cluster.namespaces = [f"dev-{number}" for number in range(90)]
    world.authz.roles = {name: f"{name}-{'r' * 60}" for name in world.cluster.namespaces}
    world.authz.rule = lambda role: f"role:{role}#1"
    caller = await world.caller(BOB)
    long = replace(caller, principal=replace(caller.principal, subject="b" * 9000, tenant="t" * 9000))
    with pytest.raises(PermissionDenied):
        # The name is too long for the cluster, which is found after the decision: everything is in the record.
        await world.pipeline.call(long, "look", {"all_namespaces": True, "label_selector": "x" * 500})
    await world.pipeline.call(caller, "look", {"all_namespaces": True, "label_selector": "x" * 500})
    for event in world.audit.events:
        AuditEvent(
            event_id=event.event_id,
            timestamp=event.timestamp,
            event_type=EventType.MCP_REQUEST,
            action=event.action,
            result=AuditResult.SUCCESS,
            user=event.user,
            resource=event.resource,
            namespace=event.namespace,
            error_message=event.error,
            metadata=event.metadata,
            tenant=event.tenant,
            decision=AuditDecision(True, event.decision.rule, event.decision.revision, event.decision.permission)
            if event.decision
            else None,
            trace_id=event.trace_id,
        ).check()
    assert world.audit.last.decision is not None
    assert len(world.audit.last.decision.rule) == 2048


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (Unavailable("gone"), True),
        (DeadlineExceeded("late"), True),
        (InvalidArgument("too long"), False),
        (Unauthenticated("expired"), False),
        (PermissionDenied("not you"), False),
    ],
)
async def test_only_an_audit_that_is_away_is_called_away(error: DomainError, away: bool) -> None:
    world = World()
    caller = await world.caller()
    world.audit.fail = lambda event: True
    world.audit.error = error
    for tool, arguments in (("look", {"namespace": "default"}), ("change", CHANGE)):
        with pytest.raises(Unavailable) as caught:
            await world.pipeline.call(caller, tool, arguments)
        assert ("away" in caught.value.public_message) is away
        assert error.public_message not in caught.value.public_message


async def test_a_busy_authn_is_recorded() -> None:
    world = World()
    world.authn.error = ResourceExhausted("Too many questions at once.", retry_after=1)
    with pytest.raises(ResourceExhausted):
        await world.pipeline.authenticate(world.context(), Credential(ALICE))
    assert (world.audit.last.kind, world.audit.last.result) == (Kind.MCP_REQUEST, Result.ERROR)


@pytest.mark.req("R1")
@pytest.mark.parametrize(
    ("issuer", "subject", "user"),
    [
        ("kubegate", "admin", "admin"),
        ("kubegate", "https://idp:admin", "kubegate:https://idp:admin"),
        ("https://idp", "admin", "https://idp:admin"),
    ],
)
def test_an_identity_is_shown_as_audit_and_authz_show_it(issuer: str, subject: str, user: str) -> None:
    assert Principal(issuer, subject).user == user
