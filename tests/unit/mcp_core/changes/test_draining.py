"""drain_node: what it says on its way, and how it leaves the node when it is stopped (I8.11)."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import DomainError, FailedPrecondition, PermissionDenied, Unauthenticated, Unavailable
from services.mcp_core.errors import ClusterDenied
from services.mcp_core.model import Dialogue
from services.mcp_core.ports import ObjectRef
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import Invocation
from tests.unit.mcp_core.tools.session import MemorySession

OWNED = [{"kind": "ReplicaSet", "name": "r", "controller": True}]


def pod(name: str, namespace: str = "default", **metadata: Any) -> dict[str, Any]:
    place = {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "ownerReferences": OWNED}
    return {"metadata": place | metadata, "status": {"phase": "Running"}}


class Node(MemorySession):
    """A node whose pods go when they are evicted, but those that a budget holds."""

    def __init__(self, *pods: dict[str, Any], held: frozenset[str] = frozenset()) -> None:
        super().__init__({"nodes": [{"metadata": {"name": "n", "resourceVersion": "1"}}], "pods": list(pods)})
        self.held = held

    async def evict(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        await super().evict(ref, uid=uid)
        if ref.name in self.held:
            raise FailedPrecondition("held")
        self.objects["pods"] = [one for one in self.objects["pods"] if one["metadata"]["uid"] != uid]

    def asked_for(self, verb: str) -> list[str]:
        return [ref.name for said, ref, _ in self.asked if said == verb]


async def drain(node: Node, **further: Any) -> dict[str, Any]:
    tool = REGISTRY["drain_node"]
    arguments = {"name": "n", "force": False, "delete_emptydir_data": False}
    invocation = Invocation(arguments, ("",), node, **further)
    assert tool.prepare is not None
    return await tool.run(replace(invocation, plan=await tool.prepare(invocation)))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.mcp_core.tools.draining.PAUSE", 0.0)


@pytest.mark.req("I8.11")
async def test_it_tells_of_each_pod_that_goes() -> None:
    heard: list[tuple[float, float | None, str]] = []

    async def report(done: float, total: float | None, message: str) -> None:
        heard.append((done, total, message))

    node = Node(pod("a"), pod("b", "other"), pod("agent", ownerReferences=[{"kind": "DaemonSet", "controller": True}]))
    left: list[tuple[str, bool]] = []
    answer = await drain(
        node,
        dialogue=Dialogue(report=report),
        leaves=lambda sentence, *, made=False: left.append((sentence, made)),
    )
    assert left[-1] == ("The node is closed to new pods and drained. Evicted: default/a, other/b.", True)
    assert heard == [(1, 2, "default/a is evicted."), (2, 2, "other/b is evicted.")]
    assert (answer["complete"], answer["gone"], answer["staying"]) == (
        True,
        ["default/a", "other/b"],
        ["default/agent"],
    )


@pytest.mark.req("I8.11")
async def test_when_policy_ends_it_says_how_it_left_the_node() -> None:
    async def revoked() -> None:
        raise PermissionDenied("no more")

    node = Node(pod("a"), pod("held"), held=frozenset({"held"}))
    answer = await drain(node, still_allowed=revoked)
    assert not answer["complete"]
    assert "policy no longer allows it" in answer["message"]
    # Asked to go, and not looked at since.
    assert (answer["leaving"], answer["blocked"]) == (["default/a"], ["default/held"])
    assert node.asked_for("evict") == ["a", "held"], "nothing more after that"


@pytest.mark.req("I8.11", "R20")
@pytest.mark.parametrize(
    "error", [Unauthenticated("The credential is not valid."), Unavailable("authz is away."), ClusterDenied("No.")]
)
async def test_whatever_ends_it_answer_and_record_say_how_the_node_was_left(error: DomainError) -> None:
    async def ends() -> None:
        raise error

    left: list[tuple[str, bool]] = []
    node = Node(pod("a"), pod("held"), held=frozenset({"held"}))
    answer = await drain(node, still_allowed=ends, leaves=lambda sentence, *, made=False: left.append((sentence, made)))
    assert not answer["complete"]
    assert f"but it ended ({error.public_message}) with pods left" in answer["message"]
    assert left[0] == ("Node n is closed to new pods; it was being drained. Evicted: none.", False)
    assert left[-1] == (f"{answer['message']} Evicted: default/a. Held back: default/held.", False)


@pytest.mark.req("I8.11")
async def test_a_node_whose_pods_cannot_be_listed_any_more_is_not_called_drained() -> None:
    class Blind(Node):
        async def list(self, *given: Any, **selection: Any) -> Any:
            if self.asked_for("patch"):
                raise ClusterDenied("pods is forbidden.")
            return await super().list(*given, **selection)

    answer = await drain(Blind(pod("a")))
    assert not answer["complete"]
    assert "pods is forbidden" in answer["message"]


@pytest.mark.req("I8.11")
async def test_when_it_is_cancelled_nothing_more_is_evicted_and_the_node_stays_closed() -> None:
    reached = asyncio.Event()

    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    node = Node(pod("a"), pod("held"), held=frozenset({"held"}))
    task = asyncio.create_task(drain(node, still_allowed=waits))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert node.asked_for("evict") == ["a", "held"]
    assert [rest for said, _, rest in node.asked if said == "patch"] == [{"spec": {"unschedulable": True}}]


@pytest.mark.req("I8.9")
async def test_what_came_after_the_decision_is_left_where_it_is() -> None:
    node = Node(pod("a"))
    tool = REGISTRY["drain_node"]
    arguments = {"name": "n", "force": False, "delete_emptydir_data": False}
    invocation = Invocation(arguments, ("",), node)
    assert tool.prepare is not None
    plan = await tool.prepare(invocation)
    assert [(str(need.permission), need.namespace, need.name) for need in plan.needs] == [
        ("k8s:pods:evict", "default", "a")
    ], "policy may read the name"
    node.objects["pods"] += [pod("elsewhere", "secret-place"), pod("lone", ownerReferences=[]), pod("later")]

    async def enough() -> None:
        raise PermissionDenied("ends the test")

    answer = await tool.run(replace(invocation, plan=plan, still_allowed=enough))
    assert node.asked_for("evict") == ["a"]
    assert sorted(answer["blocked"]) == ["default/later", "default/lone", "secret-place/elsewhere"]
