"""A tool as tools/list shows it: short, since a model reads the list before every task.

Schemas are shown looser than they are enforced: arguments without patterns, bounds and defaults, results as the objects
that they are. What does not fit is refused with a sentence that says why; /openapi.json has the whole schemas, and the
titles. What arguments of one name mean everywhere is said once, in the server's instructions (`ARGUMENTS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mcp_types as types

from services.mcp_core.tools.base import Tool

ARGUMENTS = (
    "In all tools: `kind` as kubectl takes it (pods, deploy, widgets.example.com); `namespace` and `name` are the "
    "object's; `all_namespaces` lists every namespace that you may list, "
    "instead of `namespace`; `label_selector` and `field_selector` as in kubectl; `limit` bounds the items, and "
    "`continue` of an answer, sent back, goes on there; `fields` picks fields of the items; `dry_run` shows what would "
    "change; `wait` looks on for so many seconds until it is rolled out; `idempotency_key` makes a repeat safe; "
    "`confirm` is the token of an answer that asked to confirm."
)
"""Said once instead of in every tool."""

RESULT: Mapping[str, Any] = {"type": "object"}
"""What is said of a result before it is there."""

_EXPLAINED = frozenset(
    {
        *(
            "kind",
            "namespace",
            "name",
            "all_namespaces",
            "label_selector",
            "field_selector",
            "limit",
            "continue",
            "fields",
        ),
        *("cluster", "dry_run", "wait", "idempotency_key", "confirm"),
    }
)
_ENFORCED = frozenset(
    {
        *("pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum"),
        *("exclusiveMaximum", "default", "title", "maxProperties", "minProperties"),
    }
)


def listed(tool: Tool) -> types.Tool:
    """The tool as MCP has it."""
    hints: dict[str, bool] = {"readOnlyHint": tool.read_only}
    if not tool.read_only:
        # By the specification these say something only of tools that change something.
        hints |= {"destructiveHint": tool.destructive, "idempotentHint": tool.idempotent}
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=shown_input(tool.input_schema),
        output_schema=dict(RESULT),
        annotations=types.ToolAnnotations.model_validate(hints, by_name=False),
    )


def shown_input(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of arguments without what is enforced anyway."""
    shown: dict[str, Any] = _loose(schema)
    properties: dict[str, Any] = shown.get("properties", {})
    for name in properties.keys() & _EXPLAINED:
        properties[name] = {key: value for key, value in properties[name].items() if key != "description"}
    return {key: value for key, value in shown.items() if value != []}


def _loose(node: Any) -> Any:
    if isinstance(node, list):
        return [_loose(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    loose: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            # Names of arguments, which may be those of keywords.
            loose[key] = {name: _loose(each) for name, each in value.items()}
        elif key not in _ENFORCED:
            loose[key] = _loose(value)
    return loose
