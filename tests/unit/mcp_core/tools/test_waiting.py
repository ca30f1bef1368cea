"""wait_for tells a client that asked for it what it sees, look by look, and asks policy again before each."""

from __future__ import annotations

import pytest

from services.mcp_core.model import Dialogue
from services.mcp_core.ports import Kind, Resource
from services.mcp_core.tools import REGISTRY, validate
from services.mcp_core.tools.base import Invocation
from tests.unit.mcp_core.tools.session import MemorySession

PODS = Kind(Resource("", "v1", "pods"), "Pod", True, "pod", ("po",))


@pytest.mark.req("I6.6", "R19")
async def test_each_look_is_told_until_it_is_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.mcp_core.tools.looking.PAUSE", 0.0)
    pod = {"metadata": {"name": "web", "namespace": "default"}, "status": {"phase": "Pending"}}
    session = MemorySession(objects={"pods": [pod]})
    told: list[tuple[float, float | None, str]] = []
    allowed: list[int] = []

    async def report(done: float, total: float | None, message: str) -> None:
        told.append((done, total, message))

    async def still_allowed() -> None:
        allowed.append(len(told))
        if len(told) == 3:
            pod["status"] = {"phase": "Running"}

    tool = REGISTRY["wait_for"]
    arguments = validate(tool, {"kind": "pods", "namespace": "default", "name": "web", "condition": "Running"})
    invocation = Invocation(
        arguments, ("default",), session, PODS, still_allowed=still_allowed, dialogue=Dialogue(report=report)
    )
    answer = await tool.run(invocation)
    assert answer["met"]
    assert [done for done, _, _ in told] == [1, 2, 3, 4]
    assert all("condition" in message for _, _, message in told[:-1])
    assert allowed == [1, 2, 3]
