"""What is recorded of a call that is cancelled, late, or under way when the core stops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.errors import (
    DeadlineExceeded,
)
from services.mcp_core.config import Config
from services.mcp_core.errors import NotRecorded
from services.mcp_core.model import Phase, Result
from services.mcp_core.tools.base import Invocation, Structured
from tests.unit.mcp_core.edge.fakes import World

CHANGE = {"name": "web", "namespace": "default", "replicas": 3}


async def test_a_cancelled_read_is_recorded_all_the_same() -> None:
    started = asyncio.Event()

    async def hang(invocation: Invocation) -> Structured:
        started.set()
        await asyncio.Event().wait()
        return {}

    world = World(run=hang)
    task = asyncio.create_task(world.pipeline.call(await world.caller(), "change", CHANGE))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.pipeline.drain(5)
    assert world.log == ["check", "intent", "execute", "outcome"]
    assert world.audit.last.result is Result.UNKNOWN


@pytest.mark.req("R20")
async def test_cancelling_during_the_outcome_does_not_cancel_the_outcome() -> None:
    world = World()
    caller = await world.caller()
    executed = asyncio.Event()

    async def run(invocation: Invocation) -> Structured:
        world.audit.hold = asyncio.Event()
        executed.set()
        return {"done": []}

    world.run = run
    task = asyncio.create_task(world.pipeline.call(caller, "change", CHANGE))
    await executed.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.audit.hold is not None
    world.audit.hold.set()
    await world.pipeline.drain(5)
    assert world.audit.last.phase is Phase.OUTCOME
    assert world.audit.last.result is Result.SUCCESS


async def test_cancelled_before_execution_executes_nothing_and_closes_its_intent() -> None:
    world = World()
    caller = await world.caller()
    world.audit.hold = asyncio.Event()
    task = asyncio.create_task(world.pipeline.call(caller, "change", CHANGE))
    while "check" not in world.log:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.audit.hold.set()
    await world.pipeline.drain(5)
    assert not world.invocations
    assert world.audit.last.result is Result.FAILURE


@pytest.mark.req("R20")
async def test_too_little_time_for_execution_and_record_executes_nothing() -> None:
    world = World()
    with pytest.raises(DeadlineExceeded):
        await world.pipeline.call(await world.caller(seconds=2.0), "change", CHANGE)
    assert world.log == ["check", "record"]
    assert world.audit.last.result is Result.ERROR


async def test_draining_waits_for_what_a_record_in_flight_starts(monkeypatch: Any) -> None:
    """The append that fails during the drain starts the one that is tried again."""
    monkeypatch.setattr("services.mcp_core.journal.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("services.mcp_core.journal.OUTCOME_SECONDS", 0.0)
    world = World()
    caller = await world.caller()
    executed, hold = asyncio.Event(), asyncio.Event()

    async def run(invocation: Invocation) -> Structured:
        world.audit.hold = hold
        executed.set()
        return {"done": []}

    world.run = run
    failed = False

    def fail_once(event: Any) -> bool:
        nonlocal failed
        failing, failed = not failed and event.phase is Phase.OUTCOME, failed or event.phase is Phase.OUTCOME
        return failing

    world.audit.fail = fail_once
    task = asyncio.create_task(world.pipeline.call(caller, "change", CHANGE))
    await executed.wait()
    draining = asyncio.create_task(world.pipeline.drain(5))
    await asyncio.sleep(0)
    hold.set()
    with pytest.raises(NotRecorded):
        await task
    await draining
    assert world.audit.last.phase is Phase.OUTCOME
    assert world.audit.last.result is Result.SUCCESS


async def test_what_is_cancelled_at_the_end_of_the_drain_is_over_when_it_returns() -> None:
    world = World()
    caller = await world.caller()
    world.audit.hold = asyncio.Event()
    begun, ended = asyncio.Event(), list[str]()
    append = world.audit.append

    async def slow_to_end(*arguments: Any) -> None:
        begun.set()
        try:
            await append(*arguments)
        finally:
            await asyncio.sleep(0)
            ended.append("append")

    world.audit.append = slow_to_end  # type: ignore[assignment,method-assign]
    task = asyncio.create_task(world.pipeline.note(caller, "x", Result.SUCCESS))
    await begun.wait()
    await world.pipeline.drain(0.01)
    assert ended == ["append"]
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outcome_never_overtakes_its_intent() -> None:
    world = World()
    caller = await world.caller()
    begun, hold = asyncio.Event(), asyncio.Event()
    append = world.audit.append

    async def slow_intent(event: Any, *arguments: Any) -> None:
        if event.phase is Phase.INTENT:
            begun.set()
            await hold.wait()
        await append(event, *arguments)

    world.audit.append = slow_intent  # type: ignore[assignment,method-assign]
    task = asyncio.create_task(world.pipeline.call(caller, "change", CHANGE))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):  # Turns in which the outcome could overtake.
        await asyncio.sleep(0)
    assert "outcome" not in world.log
    hold.set()
    await world.pipeline.drain(5)
    assert world.log == ["check", "intent", "outcome"]
    assert world.audit.events[1].intent_id == world.audit.events[0].event_id


def test_a_request_ends_before_its_principal_token_does() -> None:
    (bound,) = (part.le for part in Config.model_fields["request_seconds"].metadata if hasattr(part, "le"))
    assert bound == 50
