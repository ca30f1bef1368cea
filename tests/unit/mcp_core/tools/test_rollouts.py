"""`wait` of what starts a rollout: it looks on as wait_for does, and whatever ends it, the change is made (I8.11)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import DomainError, PermissionDenied, Unauthenticated, Unavailable
from services.mcp_core.model import Dialogue
from services.mcp_core.tools import REGISTRY, check_output, validate
from services.mcp_core.tools.base import Invocation
from tests.unit.mcp_core.tools.session import MemorySession

PLACE = {"name": "web", "namespace": "default"}
CALLS: dict[str, dict[str, Any]] = {
    "scale_deployment": {"replicas": 3},
    "restart_deployment": {},
    "set_image": {"image": "app:2"},
}


def deployment(updated: int = 0, **status: Any) -> dict[str, Any]:
    """One of three pods, of which so many are updated."""
    said = {"observedGeneration": 1, "replicas": 3, "updatedReplicas": updated, "availableReplicas": updated}
    template = {"metadata": {}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}}
    return {
        "metadata": {"name": "web", "namespace": "default", "generation": 1},
        "spec": {"replicas": 3, "template": template},
        "status": said | status,
    }


class Rolling:
    """A deployment whose next pod is updated whenever policy is asked."""

    def __init__(self, **status: Any) -> None:
        self.object = deployment(**status)
        self.session = MemorySession(objects={"deployments": [self.object]})
        self.told: list[tuple[float, str]] = []
        self.left: list[tuple[str, bool]] = []
        self.asked = 0

    async def report(self, done: float, total: float | None, message: str) -> None:
        self.told.append((done, message))

    async def advance(self) -> None:
        self.asked += 1
        status = self.object["status"]
        status["updatedReplicas"] += 1
        status["availableReplicas"] += 1

    def leaves(self, sentence: str, *, made: bool = False) -> None:
        self.left.append((sentence, made))

    async def call(
        self, tool: str, wait: int = 20, still_allowed: Callable[[], Awaitable[None]] | None = None
    ) -> dict[str, Any]:
        row = REGISTRY[tool]
        arguments = validate(row, {**PLACE, **CALLS[tool], "wait": wait})
        invocation = Invocation(
            arguments,
            ("default",),
            self.session,
            still_allowed=still_allowed or self.advance,
            dialogue=Dialogue(report=self.report),
            leaves=self.leaves,
        )
        assert row.prepare is not None
        answer = await row.run(replace(invocation, plan=await row.prepare(invocation)))
        check_output(row, answer)
        return answer

    def looks(self) -> int:
        """Requests after the change."""
        verbs = [verb for verb, _, _ in self.session.asked]
        last = len(verbs) - verbs[::-1].index("patch")
        return len(verbs) - last


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.mcp_core.tools.looking.PAUSE", 0.0)


@pytest.mark.req("I8.11", "R19")
@pytest.mark.parametrize("tool", CALLS)
async def test_the_call_looks_on_until_it_is_rolled_out_and_tells_each_look(tool: str) -> None:
    world = Rolling()
    answer = await world.call(tool)
    assert answer["rollout"] == {
        "complete": True,
        "status": "complete",
        "message": "All 3 pods are updated and available.",
        "looks": 4,
    }
    assert [done for done, _ in world.told] == [1, 2, 3, 4]
    assert world.told[1][1] == "1 of 3 pods are updated."
    assert world.asked == 3, "policy is asked again before each further look"
    assert all(made for _, made in world.left)


@pytest.mark.req("I8.11")
async def test_without_wait_nothing_is_looked_at() -> None:
    world = Rolling()
    answer = await world.call("scale_deployment", wait=0)
    assert "rollout" not in answer
    assert [verb for verb, _, _ in world.session.asked] == ["patch"]
    assert world.left == []


@pytest.mark.req("I8.11")
async def test_when_the_time_is_up_the_answer_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.mcp_core.tools.looking.PAUSE", 100.0)
    world = Rolling()
    rollout = (await world.call("restart_deployment"))["rollout"]
    assert (rollout["complete"], rollout["status"], rollout["looks"]) == (False, "progressing", 1)
    assert rollout["message"] == "0 of 3 pods are updated. The time is up; wait_for goes on waiting."
    assert world.left[-1] == (f"The pods of deployment default/web are being replaced. {rollout['message']}", True)


@pytest.mark.req("I8.11")
async def test_a_rollout_that_failed_is_not_waited_for() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    world = Rolling(conditions=[late])
    rollout = (await world.call("set_image"))["rollout"]
    assert (rollout["status"], rollout["looks"], world.asked) == ("failed", 1, 0)
    assert "diagnose" in rollout["message"]


@pytest.mark.req("I8.11", "R19")
@pytest.mark.parametrize("error", [PermissionDenied("No more."), Unauthenticated("Gone."), Unavailable("Away.")])
async def test_what_ends_the_wait_does_not_undo_the_change(error: DomainError) -> None:
    async def ends() -> None:
        raise error

    world = Rolling()
    rollout = (await world.call("scale_deployment", still_allowed=ends))["rollout"]
    assert not rollout["complete"]
    assert rollout["message"] == f"0 of 3 pods are updated. The wait ended: {error.public_message}"
    assert world.looks() == 1, "nothing is read after that"


@pytest.mark.req("I8.11")
async def test_a_cancelled_wait_leaves_word_of_the_change() -> None:
    reached = asyncio.Event()

    async def stays() -> None:
        reached.set()
        await asyncio.Event().wait()

    world = Rolling()
    task = asyncio.create_task(world.call("scale_deployment", still_allowed=stays))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.left == [("deployment default/web is scaled to 3.", True)]


@pytest.mark.req("I8.11", "R10")
@pytest.mark.parametrize("tool", [*CALLS, "rollout_undo"])
@pytest.mark.parametrize("kind", ["deployment", "statefulset"])
def test_whoever_waits_needs_to_read_the_workload(tool: str, kind: str) -> None:
    row = REGISTRY[tool]
    arguments = {**PLACE, **CALLS.get(tool, {}), "kind": kind}
    waiting, alone = (
        {str(need.permission) for need in row.needs(validate(row, arguments | more)) if need.required}
        for more in ({"wait": 5}, {})
    )
    assert waiting - alone == {f"k8s:{kind}s:list"}
