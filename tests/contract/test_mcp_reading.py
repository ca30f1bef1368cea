"""Resources, prompts and completions: what the tools show, by the same decision and record, and nothing beyond."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from services.common.errors import Unavailable
from services.mcp_core.model import Result, Scope
from services.mcp_core.ports import Kind, Resource
from services.mcp_core.tools import REGISTRY
from tests.fakes.mcp_edge import Served, certificates, running
from tests.unit.mcp_core.edge.fakes import BOB, World

__all__ = ["certificates"]

ERAS = ("2026-07-28", "legacy")
TEMPLATE = "k8s://{namespace}/{kind}/{name}"
INITIALIZED = "mcp:notifications/initialized"
READING = ("get_resource", "list_resources", "diagnose", "rollout_status", "rollout_history")
KINDS = (
    Kind(Resource("", "v1", "pods"), "Pod", True, "pod", ("po",)),
    Kind(Resource("", "v1", "namespaces"), "Namespace", False, "namespace", ("ns",)),
    Kind(Resource("apps", "v1", "deployments"), "Deployment", True, "deployment", ("deploy",)),
)
POD = {
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "default"},
    "spec": {"containers": [{"name": "web", "env": [{"name": "DB_PASSWORD", "value": "hunter2-canary"}]}]},
}


@pytest.fixture
async def core(certificates: Path) -> AsyncIterator[Served]:
    world = World(tools=tuple(REGISTRY[name] for name in READING))
    world.cluster.kinds = KINDS
    world.cluster.objects = {("default", "web-1"): POD, ("default", "web-2"): POD, ("prod", "api-1"): POD}
    for name in READING:
        world.authz.scopes[name] = Scope(patterns=("default", "dev-*"))
    async with running(world, certificates) as served:
        yield served


@pytest.mark.req("I6.4", "R26")
@pytest.mark.parametrize("era", ERAS)
async def test_a_resource_is_the_tool_s_answer(core: Served, era: str) -> None:
    async with core.client(era) as client:
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == [TEMPLATE]
        core.world.audit.events.clear()
        core.world.authz.checked.clear()
        [contents] = (await client.read_resource("k8s://default/pods/web-1")).contents
    assert contents.mime_type == "application/json"
    assert "web-1" in contents.text  # type: ignore[union-attr]
    assert "hunter2-canary" not in str(contents)
    [event] = [event for event in core.world.audit.events if event.action != INITIALIZED]
    assert (event.action, event.resource, event.namespace) == ("get_resource", "pods/web-1", "default")
    assert event.decision is not None
    assert event.decision.allowed
    assert [str(action.permission) for action in core.world.authz.checked] == ["k8s:pods:list"]
    assert "hunter2-canary" not in str(core.world.audit.events)


@pytest.mark.req("I6.4")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("k8s://prod/pods/api-1", "k8s:pods:list"),
        ("k8s://default/pods/none", "none"),
        ("k8s:///pods/web-1", "namespace"),
        ("k8s://default/nonsense/web-1", "nonsense"),
        ("k8s://default/pods/web-1%2F..%2Fx", "name"),
        ("k8s://default/pods/web-1/log", "no resource"),
        ("file:///etc/passwd", "no resource"),
    ],
)
async def test_what_may_not_or_cannot_be_read_is_an_error_and_recorded(
    core: Served, era: str, uri: str, said: str
) -> None:
    async with core.client(era, BOB) as client:
        core.world.audit.events.clear()
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    assert said in caught.value.message
    assert core.world.audit.last.request_id in caught.value.message
    assert caught.value.data == {"uri": uri}
    # What the cluster does not have has been asked of it.
    result = Result.ERROR if said == "none" else Result.FAILURE
    assert [event.result for event in core.world.audit.events if event.action != INITIALIZED] == [result]


@pytest.mark.req("I6.4", "I6.8")
@pytest.mark.parametrize("era", ERAS)
async def test_the_list_of_resources_shows_the_callers_namespaces(core: Served, era: str) -> None:
    core.world.authz.scopes["list_namespaces"] = Scope(patterns=("default", "dev-*"))
    async with core.client(era, BOB) as client:
        names = [resource.name for resource in (await client.list_resources()).resources]
    assert names == ["default", "dev-a", "dev-b"]
    core.world.authz.denied = {"k8s:namespaces:list"}
    async with core.client(era, BOB) as client:
        assert (await client.list_resources()).resources == []


@pytest.mark.req("I6.5")
@pytest.mark.parametrize("era", ERAS)
async def test_a_prompt_calls_its_tools_and_is_shown_to_who_may_call_them(core: Served, era: str) -> None:
    async with core.client(era) as client:
        names = [prompt.name for prompt in (await client.list_prompts()).prompts]
        assert names == ["diagnose_pod", "review_rollout"]
        core.world.audit.events.clear()
        for arguments, said in (({"namespace": "default"}, "pod"), ({"x": "y"}, "Unknown"), (None, "namespace")):
            with pytest.raises(MCPError, match=said):
                await client.get_prompt("diagnose_pod", arguments)
        with pytest.raises(MCPError, match="no prompt"):
            await client.get_prompt("no_such", {})
        noted = {(event.action, event.result) for event in core.world.audit.events if event.action != INITIALIZED}
        assert noted == {("mcp:prompts/get", Result.FAILURE)}
    core.world.authz.scopes["rollout_history"] = Scope()
    async with core.client(era, BOB) as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["diagnose_pod"]
        core.world.audit.events.clear()
        with pytest.raises(MCPError, match="k8s:pods:list"):
            await client.get_prompt("diagnose_pod", {"namespace": "prod", "pod": "api-1"})
    noted = {(event.action, event.result) for event in core.world.audit.events if event.action != INITIALIZED}
    assert noted == {("diagnose", Result.FAILURE)}


async def complete(core: Served, era: str, key: str, name: str, value: str, **others: str) -> list[str]:
    reference = ResourceTemplateReference(type="ref/resource", uri=TEMPLATE)
    async with core.client(era, key) as client:
        return (await client.complete(reference, {"name": name, "value": value}, others)).completion.values


@pytest.mark.req("I6.5")
@pytest.mark.parametrize("era", ERAS)
async def test_completions_know_only_what_the_caller_may_see(core: Served, era: str) -> None:
    core.world.authz.scopes["list_namespaces"] = Scope(patterns=("default", "dev-*"))
    assert await complete(core, era, BOB, "namespace", "") == ["default", "dev-a", "dev-b"]
    assert await complete(core, era, BOB, "namespace", "dev-b") == ["dev-b"]
    assert await complete(core, era, BOB, "name", "web", kind="pods", namespace="default") == ["web-1", "web-2"]
    assert await complete(core, era, BOB, "name", "", kind="pods", namespace="prod") == []
    assert core.world.audit.last.result is Result.FAILURE, "a denial is on record, whoever asked for it"
    assert await complete(core, era, BOB, "name", "") == []
    assert await complete(core, era, BOB, "no-such", "") == []
    core.world.authz.only = {"k8s:pods:list", "k8s:deployments:list"}
    assert await complete(core, era, BOB, "kind", "") == ["deployments.apps", "pods"]
    # Who may not list namespaces knows those that a grant names in full.
    assert await complete(core, era, BOB, "namespace", "") == ["default"]
    async with core.client(era, BOB) as client:
        reference = PromptReference(type="ref/prompt", name="diagnose_pod")
        found = await client.complete(reference, {"name": "pod", "value": ""}, {"namespace": "default"})
        assert found.completion.values == ["web-1", "web-2"]


@pytest.mark.req("I6.7")
@pytest.mark.parametrize("era", ERAS)
async def test_what_is_away_and_what_breaks_is_said_in_a_fixed_sentence(
    core: Served, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("password=hunter2 in /etc/passwd")

    async with core.client(era) as client:
        core.world.authz.error = Unavailable("The authz service cannot be reached.")
        calls = (
            lambda: client.list_tools(),
            lambda: client.list_prompts(),
            lambda: client.list_resources(),
            lambda: client.list_resource_templates(),
            lambda: client.read_resource("k8s://default/pods/web-1"),
            lambda: client.get_prompt("diagnose_pod", {"namespace": "default", "pod": "web-1"}),
        )
        for call in calls:
            with pytest.raises(MCPError, match="authz"):
                await call()
            assert core.world.audit.last.result is Result.ERROR
        core.world.authz.error = None
        monkeypatch.setattr(core.world.authz, "list_allowed", broken)
        monkeypatch.setattr(core.world.authz, "check", broken)
        for call in (calls[0], calls[4]):
            with pytest.raises(MCPError) as caught:
                await call()
            assert "hunter2" not in str(caught.value)
            assert core.world.audit.last.request_id in caught.value.message
            assert core.world.audit.last.result is Result.ERROR
