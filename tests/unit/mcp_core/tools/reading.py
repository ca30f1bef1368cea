"""Calls of the reading tools over objects in memory."""

from typing import Any

from services.mcp_core.ports import Kind, Resource
from services.mcp_core.tools import REGISTRY, check_output, validate
from services.mcp_core.tools.base import Invocation, Structured
from services.mcp_core.tools.configuration import REVEAL
from tests.unit.mcp_core.tools.session import MemorySession
from tests.unit.mcp_core.tools.test_tools import pod

WIDGETS = Kind(Resource("example.com", "v1", "widgets"), "Widget", True, "widget")
DEPLOYMENTS = Kind(Resource("apps", "v1", "deployments"), "Deployment", True, "deployment", ("deploy",))
NAMESPACES = Kind(Resource("", "v1", "namespaces"), "Namespace", False, "namespace", ("ns",))
EVERYTHING = frozenset(
    {"k8s:events:list", "k8s:pods:logs", "k8s:nodes:list", "k8s:pods:list", "k8s:endpointslices:list", str(REVEAL)}
)


async def call(
    name: str,
    arguments: dict[str, Any],
    session: MemorySession,
    namespaces: tuple[str, ...] | None = None,
    *,
    kind: Kind | None = None,
    granted: frozenset[str] = EVERYTHING,
    **further: Any,
) -> Structured:
    tool = REGISTRY[name]
    validated = validate(tool, arguments)
    decided = namespaces if namespaces is not None else (validated.get("namespace", ""),)
    result = await tool.run(Invocation(validated, decided, session, kind, granted, **further))
    check_output(tool, result)
    assert tool.text(result)
    return result


def many(count: int, namespace: str = "default") -> list[dict[str, Any]]:
    return [pod(f"web-7c5ddbdf54-{index:05}", namespace) for index in range(count)]
