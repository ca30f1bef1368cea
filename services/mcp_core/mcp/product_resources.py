"""Objects of the cluster as MCP resources: k8s://{namespace}/{kind}/{name}.

What lies outside namespaces has an empty one, `k8s:///nodes/worker-1`: none is assumed (R14). An object is read by
get_resource, the namespaces that are listed by list_namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from services.mcp_core.mcp.pack import Block, Listing, ResourceSource
from services.mcp_core.model import ToolAnswer
from services.mcp_core.tools.base import compact_json

_URI = re.compile(r"k8s://(?P<namespace>[^/?#]*)/(?P<kind>[^/?#]+)/(?P<name>[^/?#]+)")

JSON = "application/json"


def _call(uri: str) -> Mapping[str, Any] | None:
    found = _URI.fullmatch(uri)
    if found is None:
        return None
    return {key: unquote(value) for key, value in found.groupdict().items() if value}


def _contents(uri: str, answer: ToolAnswer) -> Sequence[Block]:
    return [{"uri": uri, "mimeType": JSON, "text": compact_json(dict(answer.structured))}]


def _namespaces(answer: ToolAnswer) -> Sequence[Block]:
    found: Any = answer.structured["namespaces"]
    return [
        {"uri": f"k8s:///namespaces/{each['name']}", "name": each["name"], "mimeType": JSON}
        for each in sorted(found, key=lambda each: str(each["name"]))
    ]


SOURCES = (
    ResourceSource(
        template="k8s://{namespace}/{kind}/{name}",
        name="object",
        title="An object of the cluster",
        description="Any object without its secrets, as get_resource reads it. Empty namespace: what has none.",
        mime_type=JSON,
        tool="get_resource",
        call=_call,
        contents=_contents,
        listing=Listing("list_namespaces", _namespaces),
        completes={"namespace": "namespace", "kind": "kind", "name": "*"},
    ),
)
