"""Resources, prompts and completions where there are several clusters: each names its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from services.mcp_core.tools import REGISTRY
from tests.contract.test_mcp_reading import KINDS, POD, READING
from tests.fakes.mcp_edge import Served, certificates, running
from tests.unit.mcp_core.edge.fakes import FakeCluster, World

__all__ = ["certificates"]

TEMPLATES = [f"k8s://{cluster}@{{namespace}}/{{kind}}/{{name}}" for cluster in ("test", "west")]


@pytest.fixture
async def core(certificates: Path) -> AsyncIterator[Served]:
    west = FakeCluster("west")
    world = World(tools=tuple(REGISTRY[name] for name in READING), further=(west,))
    for cluster, names in ((world.cluster, ("web-1", "web-2")), (west, ("west-1",))):
        cluster.kinds = KINDS
        cluster.objects = {("default", name): {**POD, "from": cluster.name} for name in names}
    west.namespaces = ["default", "only-west"]
    async with running(world, certificates) as served:
        yield served


@pytest.mark.req("I7.1", "I6.4")
async def test_a_resource_is_of_the_cluster_in_its_uri(core: Served) -> None:
    async with core.client("2026-07-28") as client:
        assert [one.uri_template for one in (await client.list_resource_templates()).resource_templates] == TEMPLATES
        uris = [one.uri for one in (await client.list_resources()).resources]
        assert "k8s://west@/namespaces/only-west" in uris
        assert "k8s://test@/namespaces/only-west" not in uris
        [contents] = (await client.read_resource("k8s://west@default/pods/west-1")).contents
        assert "west-1" in str(contents)
        for uri in ("k8s://test@default/pods/west-1", "k8s://default/pods/web-1", "k8s://north@default/pods/web-1"):
            with pytest.raises(MCPError):
                await client.read_resource(uri)
    reads = [event for event in core.world.audit.events if event.action == "get_resource"]
    assert [event.metadata["cluster"] for event in reads] == ["west", "test"]


@pytest.mark.req("I7.1", "I6.4")
async def test_completions_are_of_one_cluster(core: Served) -> None:
    async with core.client("2026-07-28") as client:

        async def complete(ref: Any, name: str, **others: str) -> list[str]:
            argument = {"name": name, "value": ""}
            return list((await client.complete(ref, argument, context_arguments=others or None)).completion.values)

        west = ResourceTemplateReference(uri=TEMPLATES[1])
        assert await complete(west, "namespace") == ["default", "only-west"]
        assert await complete(west, "name", namespace="default", kind="pods") == ["west-1"]
        # What a client says besides does not lead out of the template's cluster.
        assert await complete(west, "name", namespace="default", kind="pods", cluster="test") == ["west-1"]
        prompt = PromptReference(name="diagnose_pod")
        assert await complete(prompt, "cluster") == ["test", "west"]
        assert await complete(prompt, "pod", namespace="default", cluster="west") == ["west-1"]
        assert await complete(prompt, "pod", namespace="default") == []


@pytest.mark.req("I7.1", "I6.4")
async def test_a_prompt_asks_about_its_cluster(core: Served) -> None:
    async with core.client("legacy") as client:
        (listed,) = [one for one in (await client.list_prompts()).prompts if one.name == "diagnose_pod"]
        assert next(one.name for one in listed.arguments or ()) == "cluster"
        with pytest.raises(MCPError, match="cluster"):
            await client.get_prompt("diagnose_pod", {"namespace": "default", "pod": "web-1"})
        instructions = client.instructions or ""
        assert "test, west" in instructions
