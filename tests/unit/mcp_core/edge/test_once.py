"""A change that is sent again with its key is never made twice (R20)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.common.errors import Conflict, FailedPrecondition, NotFound, Unavailable
from services.mcp_core import journal
from services.mcp_core.errors import ActionDenied, NotRecorded, NotSent, OutcomeUnknown
from services.mcp_core.model import Phase, Result
from services.mcp_core.once import MAX_OUTCOME, AlreadyBegun
from services.mcp_core.tools.base import UNCHANGED, Change, Invocation, Plan
from tests.unit.mcp_core.edge.fakes import BOB
from tests.unit.mcp_core.edge.planned import Planned
from tests.unit.mcp_core.edge.test_confirmation import DELETES, REST, asked

KEY: dict[str, Any] = {"idempotency_key": "change-0001"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("journal", "once"):
        monkeypatch.setattr(f"services.mcp_core.{module}.FIRST_PAUSE", 0.001)


@pytest.mark.req("R20", "I8.5")
async def test_a_repeat_gets_the_recorded_answer_and_executes_nothing() -> None:
    planned = Planned(Plan())
    first = await planned.call(**KEY)
    again = await planned.call(**KEY)
    assert again.structured == first.structured
    assert again.replay_of == "req-1"
    assert again.text.startswith("Recorded answer of request req-1")
    assert planned.world.log == ["check", "recall", "record"]
    assert len(planned.world.invocations) == 1
    event = planned.world.audit.last
    assert (event.phase, event.result, event.metadata["replay_of"]) == (Phase.WHOLE, Result.SUCCESS, "req-1")


@pytest.mark.req("R20", "I8.5")
async def test_a_repeat_needs_the_permission_that_the_call_needed() -> None:
    planned = Planned(Plan())
    await planned.call(**KEY)
    planned.world.authz.denied = {"k8s:deployments:scale"}
    with pytest.raises(ActionDenied):
        await planned.call(**KEY)


@pytest.mark.req("R1", "R20", "I8.5")
async def test_a_key_is_one_persons_and_stands_for_one_call() -> None:
    planned = Planned(Plan())
    await planned.call(**KEY)
    with pytest.raises(FailedPrecondition, match="used before"):
        await planned.call(**KEY, name="other")
    assert len(planned.world.invocations) == 1
    planned.world.authz.scopes["change"] = planned.world.authz.scopes["look"]
    assert (await planned.call(BOB, **KEY)).replay_of == ""
    assert len(planned.world.invocations) == 2


@pytest.mark.req("R20", "I8.5")
async def test_of_two_at_once_one_executes_and_the_other_is_told_to_wait() -> None:
    planned = Planned(Plan())
    inside, go = asyncio.Event(), asyncio.Event()

    async def run(invocation: Invocation) -> Any:
        inside.set()
        await go.wait()
        return {"done": ["default"]}

    planned.world.run = run
    first = asyncio.create_task(planned.call(**KEY))
    await inside.wait()
    with pytest.raises(Conflict, match="under way") as caught:
        await planned.call(**KEY)
    assert caught.value.retry_after == 1.0
    go.set()
    await first
    assert (await planned.call(**KEY)).replay_of
    assert len(planned.world.invocations) == 1


@pytest.mark.req("R20", "I8.5", "I8.7")
@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Plan(changes=(Change("spec.replicas", 1, 3),)), "would still change 1 field"),
        (Plan("Scales web.", notes=(UNCHANGED,)), "would change nothing any more"),
        (Plan("Deletes pod web.", "17", confirm=True), "still to be done: Deletes pod web."),
        (NotFound("There is no pod web."), "There is no pod web."),
    ],
)
async def test_when_the_core_died_in_between_a_repeat_acts_not_and_says_what_the_cluster_says(
    now: Plan | Exception, said: str
) -> None:
    planned = Planned(Plan())
    planned.world.keeper.taken["alice", KEY["idempotency_key"]] = await _claimed_by_the_dead(planned)
    planned.plan = now
    with pytest.raises(AlreadyBegun, match=r"not known how it ended.*It is not executed again") as caught:
        await planned.call(**KEY)
    assert said in caught.value.public_message
    assert "dead-request" in caught.value.public_message
    assert len(planned.world.invocations) == 1
    assert planned.world.audit.last.result is Result.FAILURE


async def _claimed_by_the_dead(planned: Planned) -> Any:
    """A claim as a core leaves it that is killed while it executes."""
    await planned.call(**KEY)
    claim_id, digest, taken = planned.world.keeper.taken["alice", KEY["idempotency_key"]]
    dead = type(taken)(True, "dead-request", taken.claimed_at, taken.deadline - 60, "")
    return claim_id, digest, dead


@pytest.mark.req("R20", "I8.5")
async def test_an_outcome_that_nobody_knows_is_kept_as_unknown() -> None:
    planned = Planned(Plan())

    async def run(invocation: Invocation) -> Any:
        raise OutcomeUnknown("The cluster's answer did not arrive.")

    planned.world.run = run
    with pytest.raises(OutcomeUnknown):
        await planned.call(**KEY)
    planned.world.run = None
    with pytest.raises(AlreadyBegun):
        await planned.call(**KEY)
    assert len(planned.world.invocations) == 1


@pytest.mark.req("R20", "I8.5")
async def test_a_failure_of_the_execution_is_what_a_repeat_gets() -> None:
    planned = Planned(Plan())

    async def run(invocation: Invocation) -> Any:
        raise NotFound("There is no pod web.")

    planned.world.run = run
    with pytest.raises(NotFound):
        await planned.call(**KEY)
    planned.world.run = None
    with pytest.raises(NotFound, match=r"There is no pod web\. So ended request req-1"):
        await planned.call(**KEY)
    assert len(planned.world.invocations) == 1


@pytest.mark.req("R20", "I8.5")
async def test_what_was_not_executed_leaves_its_key_free() -> None:
    planned = Planned(Plan())
    planned.world.audit.fail = lambda event: event.phase is Phase.INTENT
    with pytest.raises(Unavailable):
        await planned.call(**KEY)
    await planned.world.pipeline.drain(5)
    assert "release" in planned.world.log
    planned.world.audit.fail = lambda event: False
    assert (await planned.call(**KEY)).replay_of == ""
    assert len(planned.world.invocations) == 1


@pytest.mark.req("R20", "I8.5")
async def test_executed_but_unrecorded_is_told_as_such_until_the_record_is_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "OUTCOME_SECONDS", 0.5)
    planned = Planned(Plan())
    caller = await planned.world.caller()
    broken = True
    planned.world.audit.fail = lambda event: broken and event.phase is Phase.OUTCOME
    with pytest.raises(NotRecorded) as caught:
        await planned.world.pipeline.call(caller, "change", {"name": "web", "namespace": "default", **KEY})
    assert caught.value.retry_after is None
    # No answer leaves by the back door either.
    with pytest.raises(Conflict):
        await planned.call(**KEY)
    broken = False
    await planned.world.pipeline.drain(5)
    assert (await planned.call(**KEY)).replay_of == "req-1"
    assert len(planned.world.invocations) == 1


@pytest.mark.req("R20", "I8.5")
async def test_an_outcome_that_cannot_be_stored_at_once_is_stored_later() -> None:
    planned = Planned(Plan())

    async def run(invocation: Invocation) -> Any:
        planned.world.keeper.error = Unavailable("The authz service is away.")
        return {"done": ["default"]}

    planned.world.run = run
    assert (await planned.call(**KEY)).structured == {"done": ["default"]}
    planned.world.keeper.error = None
    await planned.world.pipeline.drain(5)
    assert (await planned.call(**KEY)).replay_of == "req-1"


@pytest.mark.req("R20")
async def test_a_caller_who_goes_away_while_it_executes_leaves_an_unknown_outcome() -> None:
    planned = Planned(Plan())
    inside = asyncio.Event()

    async def run(invocation: Invocation) -> Any:
        inside.set()
        await asyncio.Event().wait()

    planned.world.run = run
    first = asyncio.create_task(planned.call(**KEY))
    await inside.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await planned.world.pipeline.drain(5)
    assert planned.world.audit.last.result is Result.UNKNOWN
    with pytest.raises(AlreadyBegun):
        await planned.call(**KEY)


@pytest.mark.req("R20")
async def test_of_a_long_answer_only_the_success_is_kept() -> None:
    planned = Planned(Plan())

    async def run(invocation: Invocation) -> Any:
        return {"done": ["x" * MAX_OUTCOME]}

    planned.world.run = run
    await planned.call(**KEY)
    with pytest.raises(FailedPrecondition, match="Already executed, with success"):
        await planned.call(**KEY)
    stored = planned.world.keeper.taken["alice", KEY["idempotency_key"]][2].outcome
    assert json.loads(stored) == {"result": "success"}


@pytest.mark.req("R16", "R20")
async def test_a_repeat_of_a_confirmed_call_needs_no_second_confirmation_and_uses_none() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    await planned.call(asking=REST, confirm=token, **KEY)
    # The object is gone, the token is used: the answer is the recorded one all the same.
    planned.plan = NotFound("There is no pod web.")
    assert (await planned.call(asking=REST, confirm=token, **KEY)).replay_of == "req-1"
    assert (await planned.call(asking=REST, **KEY)).replay_of == "req-1"
    assert len(planned.world.invocations) == 1


async def test_a_dry_run_takes_no_key() -> None:
    planned = Planned(Plan())
    await planned.call(dry_run=True, **KEY)
    assert planned.world.log == ["check", "prepare", "record"]
    assert not planned.world.keeper.taken


@pytest.mark.req("R20")
async def test_what_never_left_leaves_its_key_free() -> None:
    planned = Planned(Plan())
    away = True

    async def run(invocation: Invocation) -> Any:
        if away:
            raise NotSent("Cluster test is away. Nothing was done.")
        return {"done": ["default"]}

    planned.world.run = run
    with pytest.raises(NotSent):
        await planned.call(**KEY)
    assert planned.world.audit.last.result is Result.ERROR
    await planned.world.pipeline.drain(5)
    away = False
    assert (await planned.call(**KEY)).replay_of == ""
