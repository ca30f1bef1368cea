"""The look ahead of tools that change something: in the middle of the steps, and never instead of one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.common.errors import FailedPrecondition, NotFound, Unauthenticated
from services.mcp_core.errors import ActionDenied
from services.mcp_core.model import Phase, Result
from services.mcp_core.openapi import document
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import Change, Invocation, Need, Permission, Plan, Structured
from tests.unit.mcp_core.edge.fakes import BOB
from tests.unit.mcp_core.edge.planned import CALL, Planned

DANGER = Permission("privileged-pod", "kubegate", "danger")


async def test_the_look_ahead_comes_after_the_decision_and_before_the_intent() -> None:
    planned = Planned(Plan("Scales web to 3.", "17"))
    await planned.call(idempotency_key="one-two-three")
    assert planned.world.log == ["check", "recall", "prepare", "claim", "intent", "execute", "outcome", "settle"]
    (invocation,) = planned.world.invocations
    assert invocation.plan.resource_version == "17"
    assert dict(invocation.arguments) == CALL
    assert planned.world.audit.last.metadata["idempotency_key"] == "one-two-three"


async def test_whoever_is_denied_sees_no_look_ahead() -> None:
    planned = Planned(Plan())
    for dry_run in (False, True):
        with pytest.raises(ActionDenied):
            await planned.call(BOB, dry_run=dry_run)
        assert planned.world.log == ["check", "record"]


@pytest.mark.req("I8.2")
async def test_a_dry_run_is_decided_and_recorded_and_executes_nothing() -> None:
    planned = Planned(Plan("Scales web to 3.", "17", confirm=True, changes=(Change("spec.replicas", 1, 3),)))
    answer = await planned.call(dry_run=True)
    assert planned.world.log == ["check", "prepare", "record"]
    assert planned.prepared[0].dry_run
    assert answer.structured == {
        "dry_run": True,
        "summary": "Scales web to 3.",
        "changes": [{"path": "spec.replicas", "before": 1, "after": 3}],
        "notes": [],
        "needs_confirmation": True,
    }
    event = planned.world.audit.last
    assert (event.phase, event.result, event.metadata["dry_run"]) == (Phase.WHOLE, Result.SUCCESS, "true")


@pytest.mark.req("I8.9")
async def test_what_the_look_ahead_shows_to_be_needed_is_decided_too() -> None:
    planned = Planned(Plan(needs=(Need(DANGER),)))
    await planned.call()
    assert planned.world.log == ["check", "prepare", "check", "intent", "execute", "outcome"]
    assert planned.world.invocations[0].may(DANGER)
    assert (
        planned.world.audit.last.metadata["permission_check"] == "k8s:deployments:scale,kubegate:danger:privileged-pod"
    )

    planned.world.authz.denied = {str(DANGER)}
    for dry_run in (False, True):
        with pytest.raises(ActionDenied) as caught:
            await planned.call(dry_run=dry_run)
        assert caught.value.permission == str(DANGER)
        assert planned.world.log == ["check", "prepare", "check", "record"]
        event = planned.world.audit.last
        assert event.decision is not None
        assert (event.result, event.decision.allowed) == (Result.FAILURE, False)


async def test_a_look_ahead_that_fails_ends_the_call_before_anything_happens() -> None:
    planned = Planned(NotFound("There is no such pod."))
    with pytest.raises(NotFound):
        await planned.call()
    assert planned.world.log == ["check", "prepare", "record"]
    assert planned.world.audit.last.result is Result.FAILURE


@pytest.mark.req("R10")
async def test_policy_hears_the_name_with_every_permission_that_concerns_the_object() -> None:
    scale = Permission("scale", "apps", "deployments", "scale")
    others = (
        Need(Permission("list", "apps", "replicasets")),
        Need(scale, namespace="elsewhere"),
        Need(scale, namespace="elsewhere", name="api"),
    )
    planned = Planned(Plan(needs=(Need(DANGER), Need(Permission("create", "apps", "deployments")), *others)))
    await planned.call()
    assert [action.name for action in planned.world.authz.checked] == ["web", "web", "web", "", "", "api"]


@pytest.mark.req("I8.3", "I8.5")
def test_what_changes_something_takes_a_key_and_what_destroys_says_that_it_may_ask() -> None:
    described = document(REGISTRY, "https://gate")["paths"]
    for name, tool in REGISTRY.items():
        taken = tool.input_schema["properties"].keys() & {"dry_run", "idempotency_key"}
        assert len(taken) == (0 if tool.read_only else 2), name
        asks = "428" in described[f"/mcp/tools/{name}"]["post"]["responses"]
        assert asks == ("confirm" in tool.input_schema["properties"]), name
    for name in ("delete_pod", "evict_pod", "drain_node", "delete_secret", "delete_resource", "scale_deployment"):
        assert "confirm" in REGISTRY[name].input_schema["properties"], name


@pytest.mark.req("R12", "R19")
async def test_what_stays_open_is_asked_again_about_all_that_it_needs() -> None:
    planned = Planned(Plan(needs=(Need(DANGER),)))
    await planned.call()
    (invocation,) = planned.world.invocations
    await invocation.still_allowed()
    planned.world.authz.denied = {str(DANGER)}
    with pytest.raises(ActionDenied):
        await invocation.still_allowed()


@pytest.mark.req("I8.11", "I8.5")
async def test_a_caller_who_goes_away_while_a_made_change_is_looked_at_leaves_a_success_on_record() -> None:
    planned = Planned(Plan("Scales web to 3."))
    reached = asyncio.Event()

    async def run(invocation: Invocation) -> Structured:
        invocation.leaves("web is scaled to 3.", made=True)
        reached.set()
        await asyncio.Event().wait()
        return {"done": []}

    planned.world.run = run
    call = asyncio.create_task(planned.call(idempotency_key="one-two-three"))
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await planned.world.pipeline.drain(5.0)
    event = planned.world.audit.last
    assert (event.phase, event.result, event.metadata["left"]) == (
        Phase.OUTCOME,
        Result.SUCCESS,
        "web is scaled to 3.",
    )
    assert "went away" in event.error
    # Sent again with its key, it is not made again, and it is known that it was made.
    with pytest.raises(FailedPrecondition, match="Already executed, with success"):
        await planned.call(idempotency_key="one-two-three")
    assert len(planned.world.invocations) == 1


@pytest.mark.req("I8.11", "R20")
@pytest.mark.parametrize("made", [True, False])
async def test_what_fails_after_it_has_changed_something_is_no_failure_on_record(made: bool) -> None:
    planned = Planned(Plan("Drains n."))

    async def run(invocation: Invocation) -> Structured:
        invocation.leaves("Node n is closed to new pods.", made=made)
        raise Unauthenticated("The credential is not valid.")

    planned.world.run = run
    with pytest.raises(Unauthenticated) as caught:
        await planned.call()
    assert caught.value.public_message == "The credential is not valid. Node n is closed to new pods."
    event = planned.world.audit.last
    assert event.result is (Result.SUCCESS if made else Result.UNKNOWN)
    assert event.metadata["left"] == "Node n is closed to new pods."


@pytest.mark.req("R12")
async def test_what_was_decided_long_ago_is_decided_again_before_it_is_executed() -> None:
    planned = Planned(Plan("Scales web to 3."))
    look = planned.world.registry["change"].prepare
    assert look is not None

    async def slowly(invocation: Invocation) -> Plan:
        planned.world.clock.advance(2.0)
        planned.world.authz.denied = {"k8s:deployments:scale"}
        return await look(invocation)

    planned.world.registry["change"] = replace(planned.world.registry["change"], prepare=slowly)
    with pytest.raises(ActionDenied):
        await planned.call(idempotency_key="one-two-three")
    assert "execute" not in planned.world.log
    event = planned.world.audit.last
    assert event.decision is not None
    assert (event.result, event.decision.allowed) == (Result.FAILURE, False)
    assert planned.world.log[-1] in ("record", "release")
