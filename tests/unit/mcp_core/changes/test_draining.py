"""drain_node: what it says on its way, and how it leaves the node when it is stopped (I8.11)."""

import asyncio
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from services.common.errors import (
    DeadlineExceeded,
    DomainError,
    FailedPrecondition,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.mcp_core.errors import ClusterDenied, OutcomeUnknown
from services.mcp_core.journal import Entry, bounded
from services.mcp_core.model import Dialogue, Result
from services.mcp_core.pipeline import _settle as settle
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
    assert left[-1] == (
        "Pods: 2 evicted. The node is closed to new pods and drained. Evicted: default/a, other/b.",
        True,
    )
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
    assert left[0] == ("Pods: 0 evicted. Node n is closed to new pods; it was being drained. Evicted: none.", False)
    names = "Evicted: default/a. Held back: default/held."
    assert left[-1] == (f"Pods: 1 evicted, 1 held back. {answer['message']} {names}", False)


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


def executing() -> Entry:
    """The record of a drain that goes on."""
    return Entry(MagicMock(), "drain_node", 0.0, mutation=True, executing=True)


class Mute(Node):
    """A cluster that evicts the pod and whose answer is lost, or never comes."""

    def __init__(self, *pods: dict[str, Any], error: DomainError | None = None) -> None:
        super().__init__(*pods)
        self.error, self.evicting = error, asyncio.Event()

    async def evict(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        if ref.name != "mute":
            await super().evict(ref, uid=uid)
            return
        if not isinstance(self.error, ClusterDenied):
            await super().evict(ref, uid=uid)
        self.evicting.set()
        if self.error is None:
            await asyncio.Event().wait()
        raise self.error or AssertionError


@pytest.mark.req("I8.11", "R20")
@pytest.mark.parametrize("error", [OutcomeUnknown("Lost."), Unavailable("Broke."), DeadlineExceeded("Late.")])
async def test_an_eviction_whose_answer_is_lost_is_never_called_not_made(error: DomainError) -> None:
    entry = executing()
    with pytest.raises(OutcomeUnknown) as raised:
        await drain(Mute(pod("a"), pod("mute"), error=error), leaves=entry.leaves)
    assert settle(entry, raised.value) is raised.value
    assert entry.result is Result.UNKNOWN
    assert entry.left.startswith("Pods: 1 outcome unknown, 1 evicted.")
    assert "Outcome unknown: default/mute. Evicted: default/a." in entry.left
    assert "default/mute" in raised.value.public_message, "the caller learns of it too"


@pytest.mark.req("I8.11", "R20")
async def test_an_eviction_during_which_the_caller_goes_away_is_on_record() -> None:
    entry = executing()
    node = Mute(pod("a"), pod("mute"))
    task = asyncio.create_task(drain(node, leaves=entry.leaves))
    await node.evicting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (entry.result, entry.made) == (Result.UNKNOWN, False)
    assert "Outcome unknown: default/mute. Evicted: default/a." in entry.left


@pytest.mark.req("I8.11")
async def test_a_refused_eviction_is_not_called_unknown() -> None:
    entry = executing()
    answer = await drain(Mute(pod("mute"), error=ClusterDenied("No.")), leaves=entry.leaves)
    assert not answer["complete"]
    assert "unknown" not in entry.left


@pytest.mark.req("I8.11")
async def test_the_record_says_how_many_however_long_their_names_are() -> None:
    entry = executing()
    pods = [pod(f"{number:03}-" + "x" * 240) for number in range(12)]
    await drain(Node(*pods), leaves=entry.leaves)
    assert bounded(entry.left).startswith("Pods: 12 evicted.")


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
