"""Several clusters: every call names one, what is decided, asked and recorded is bound to it, and none is assumed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from services.authz.policy.engine import Engine
from services.authz.policy.model import Action as AuthzAction
from services.authz.policy.model import Allowed as AuthzAllowed
from services.authz.policy.model import Principal as AuthzPrincipal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE
from services.common.errors import DomainError, FailedPrecondition, InvalidArgument
from services.mcp_core.config import ClusterConfig, Config
from services.mcp_core.confirmation import Asking, ConfirmationNeeded, ConfirmationRefused, Refusal, Way
from services.mcp_core.errors import ActionDenied
from services.mcp_core.mcp import product
from services.mcp_core.mcp.across import across
from services.mcp_core.mcp.listed import listed
from services.mcp_core.model import Action, Decision, Denied, Kind, Phase, Result, ToolAnswer
from services.mcp_core.pipeline import NOT_AT_ALL
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import ConfirmableArguments, Invocation, Permission, Plan, Structured, Tool
from services.mcp_core.wiring import offered_tools, probes
from tests.e2e.stack import VIEWER_TOOLS
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, Answer, FakeAuthorizer, FakeCluster, World

TWO = ("test", "west")
PLACE: dict[str, Any] = {"name": "web", "namespace": "default"}


class Removal(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of a removal."""

    name: str
    namespace: str


class Worlds:
    """The core over two clusters, with a tool that removes something once it is confirmed."""

    def __init__(self) -> None:
        self.west = FakeCluster("west")
        remove = Tool(
            name="remove",
            title="Remove",
            description="Removes.",
            arguments=Removal,
            result=Answer,
            permission=Permission("delete", "", "pods"),
            prepare=self._prepare,
            run=self._run,
            destructive=True,
            resource_name=lambda arguments: str(arguments["name"]),
        )
        self.world = World(tools=(remove,), further=(self.west,))
        self.removed: list[Invocation] = []

    async def _prepare(self, invocation: Invocation) -> Plan:
        return Plan("Removes pod web.", "17", confirm=True)

    async def _run(self, invocation: Invocation) -> Structured:
        self.removed.append(invocation)
        return {"done": ["web"]}

    async def call(self, tool: str, asking: Asking = NOT_AT_ALL, who: str = ALICE, **arguments: Any) -> ToolAnswer:
        return await self.world.pipeline.call(await self.world.caller(who), tool, arguments, asking)


@pytest.mark.req("I7.1", "R10")
async def test_a_call_is_decided_executed_and_recorded_for_the_cluster_that_it_names() -> None:
    worlds = Worlds()
    await worlds.call("change", **PLACE, cluster="west")
    assert [action.cluster for action in worlds.world.authz.checked] == ["west"]
    assert worlds.west.sessions
    assert not worlds.world.cluster.sessions
    assert [event.metadata["cluster"] for event in worlds.world.audit.events] == ["west", "west"]
    assert "cluster" not in worlds.world.invocations[0].arguments
    asked = len(worlds.west.sessions)
    await worlds.call("change", **PLACE, cluster="test")
    assert worlds.world.cluster.sessions
    assert len(worlds.west.sessions) == asked


@pytest.mark.req("I7.1", "R14")
@pytest.mark.parametrize("name", ["east", "testt", "default", "west-"])
async def test_an_unknown_cluster_is_denied_and_recorded_and_no_other_takes_its_place(name: str) -> None:
    worlds = Worlds()
    wrong = InvalidArgument if name.endswith("-") else ActionDenied
    with pytest.raises(wrong) as caught:
        await worlds.call("change", **PLACE, cluster=name)
    assert "west" not in caught.value.public_message.replace(name, "")
    with pytest.raises(InvalidArgument, match="`cluster` is required"):
        await worlds.call("change", **PLACE)
    assert worlds.world.authz.checked == []
    assert worlds.west.sessions == worlds.world.cluster.sessions == []
    denied, missing = worlds.world.audit.events
    assert (denied.phase, denied.result, missing.result) == (Phase.WHOLE, Result.FAILURE, Result.FAILURE)
    if wrong is ActionDenied:
        assert denied.metadata["cluster"] == name


@pytest.mark.req("I7.1", "R16")
async def test_a_yes_for_one_cluster_is_refused_on_another() -> None:
    worlds = Worlds()
    rest = Asking(Way.TOKEN)
    with pytest.raises(ConfirmationNeeded) as asked:
        await worlds.call("remove", rest, **PLACE, cluster="test")
    with pytest.raises(ConfirmationRefused) as refused:
        await worlds.call("remove", rest, **PLACE, cluster="west", confirm=asked.value.token)
    assert refused.value.why is Refusal.ALTERED
    assert worlds.world.audit.last.kind is Kind.SECURITY_VIOLATION
    assert worlds.removed == []
    await worlds.call("remove", rest, **PLACE, cluster="test", confirm=asked.value.token)
    assert len(worlds.removed) == 1


@pytest.mark.req("I7.1", "R20")
async def test_an_idempotency_key_of_one_cluster_answers_nothing_for_another() -> None:
    worlds = Worlds()
    rest = Asking(Way.TOKEN)

    async def confirmed(cluster: str) -> ToolAnswer:
        key: dict[str, Any] = {"idempotency_key": "one-two-three", "cluster": cluster}
        with pytest.raises(ConfirmationNeeded) as asked:
            await worlds.call("remove", rest, **PLACE, **key)
        return await worlds.call("remove", rest, **PLACE, **key, confirm=asked.value.token)

    await confirmed("test")
    with pytest.raises(FailedPrecondition, match="used before"):
        await confirmed("west")
    assert len(worlds.removed) == 1


class ByCluster(FakeAuthorizer):
    """Allows in one cluster only."""

    async def check(self, caller: Any, action: Action, *, anew: bool = False) -> Decision:
        decision = await super().check(caller, action)
        if action.cluster == "west":
            return decision
        return Denied("no_grant", "Not in this cluster.", str(action.permission), action.namespace, "rev1", "authz-x")

    async def list_allowed(self, caller: Any, actions: Any) -> Any:
        said = await super().list_allowed(caller, actions)
        each = tuple(
            scope if action.cluster == "west" else type(scope)()
            for action, scope in zip(actions, said.each, strict=True)
        )
        return type(said)(each)


@pytest.mark.req("I7.1", "R10")
async def test_what_is_offered_says_in_which_clusters() -> None:
    worlds = Worlds()
    offers = await worlds.world.pipeline.offers(await worlds.world.caller(ALICE))
    assert {offer.clusters for offer in offers} == {TWO}
    worlds.world.authz.__class__ = ByCluster
    offers = await worlds.world.pipeline.offers(await worlds.world.caller(ALICE))
    assert {offer.clusters for offer in offers} == {("west",)}
    with pytest.raises(ActionDenied):
        await worlds.call("change", **PLACE, cluster="test")
    assert worlds.world.cluster.sessions == []


@pytest.mark.req("I7.1", "R10")
@pytest.mark.parametrize(("cluster", "allowed"), [("west", True), ("test", False), ("", False)])
def test_policy_names_clusters_and_a_grant_without_one_is_good_for_all(cluster: str, allowed: bool) -> None:
    def decide(role: str) -> bool:
        policy = parse_policy(
            b"""
            roles:
              - {name: everywhere, permissions: ["k8s:pods:list"]}
              - {name: west, permissions: ["k8s:pods:list"], condition: "action.cluster == 'west'"}
            """
        )
        principal = AuthzPrincipal("kubegate", "ana", roles=(role,), namespaces=EVERYWHERE)
        action = AuthzAction(group="", resource="pods", verb="list", namespace="default", cluster=cluster)
        return isinstance(Engine(policy).decide(principal, action), AuthzAllowed)

    assert decide("west") is allowed
    assert decide("everywhere")


@pytest.mark.req("I7.1", "I6.8")
def test_every_tool_takes_the_cluster_only_where_there_are_several_and_the_list_stays_short() -> None:
    pack = product(offered_tools("all"))
    assert across(pack, ["one"]) is pack
    several = across(pack, ["production-eu", "staging-eu", "west"])
    for name, tool in several.tools.items():
        assert tool.input_schema["properties"]["cluster"]["enum"] == ["production-eu", "staging-eu", "west"], name
        assert "cluster" in tool.input_schema["required"]
        assert "cluster" not in REGISTRY[name].input_schema.get("properties", {})

    def size(names: Any) -> int:
        tools = [
            listed(several.tools[name]).model_dump(mode="json", by_alias=True, exclude_none=True) for name in names
        ]
        return len(json.dumps({"tools": tools}, separators=(",", ":")).encode())

    assert size(VIEWER_TOOLS) <= 10_000
    assert size(several.tools) <= 30_000


@pytest.mark.req("I7.1", "I2.11")
async def test_readiness_names_each_of_several_clusters() -> None:
    peer: Any = None
    assert "cluster" in probes(peer, peer, peer, [FakeCluster()])
    assert {"cluster test", "cluster west"} <= set(probes(peer, peer, peer, [FakeCluster(), FakeCluster("west")]))


@pytest.mark.parametrize(
    ("names", "problem"),
    [(("a", "a"), "two clusters are called 'a'"), (("a", "B b"), "'B b' must be"), (("A", "b"), "'A' must be")],
)
def test_the_configuration_tells_clusters_apart(names: tuple[str, str], problem: str) -> None:
    info: Any = SimpleNamespace(data={"cluster": ClusterConfig(name=names[0], in_cluster=True)})
    further = (ClusterConfig(name=names[1], in_cluster=True),)
    with pytest.raises(ValueError, match=problem):
        Config._told_apart(further, info)


async def test_a_caller_without_a_grant_learns_of_no_cluster() -> None:
    worlds = Worlds()
    worlds.world.authz.scopes = {}
    assert await worlds.world.pipeline.offers(await worlds.world.caller(BOB)) == []
    with pytest.raises(DomainError) as caught:
        await worlds.call("change", who=BOB, **PLACE, cluster="nowhere")
    assert not any(name in caught.value.public_message for name in TWO)
