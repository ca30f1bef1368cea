"""The tools, by name. A tool is one row here: schemas, permission, what it does. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from services.common.errors import Internal, InvalidArgument
from services.mcp_core.model import ToolAnswer
from services.mcp_core.tools import (
    configuration,
    deployments,
    diagnosis,
    draining,
    events,
    images,
    logs,
    namespaces,
    node_changes,
    nodes,
    object_changes,
    pod_changes,
    pods,
    resources,
    revisions,
    rollback,
    scaling,
    secret_changes,
    services,
    usage,
    waiting,
    workloads,
)
from services.mcp_core.tools.base import CONTROLS, Arguments, Plan, Preview, Structured, Tool, fenced_json
from services.mcp_core.tools.schema import convert_arguments

GROUPS = (
    *(configuration, deployments, diagnosis, events, logs, namespaces),
    *(nodes, pods, resources, revisions, services, usage, waiting, workloads),
    *(draining, images, node_changes, object_changes, pod_changes, rollback, scaling, secret_changes),
)

REGISTRY: Mapping[str, Tool] = MappingProxyType(
    {tool.name: tool for tool in sorted((tool for group in GROUPS for tool in group.TOOLS), key=lambda tool: tool.name)}
)

TOOLSETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {group.__name__.rpartition(".")[2]: tuple(tool.name for tool in group.TOOLS) for group in GROUPS}
)
"""The names of the tools by their group, which an installation can switch off."""


def validate(tool: Tool, arguments: Any) -> Arguments:
    """The arguments with defaults filled in; optional ones that were not given and have none are absent.

    A tool that lists has afterwards either `namespace`, or `all_namespaces` true; every other namespaced tool has
    `namespace`. No namespace is ever filled in (R14). Where the kind decides whether there is one, `placement.resolve`
    looks.

    Raises:
        InvalidArgument: naming the first argument that does not fit, and why.
    """
    validated: dict[str, Any] = msgspec.to_builtins(convert_arguments(arguments, tool.arguments))
    if tool.lists and not tool.any_kind and ("namespace" in validated) == validated["all_namespaces"]:
        if validated["all_namespaces"]:
            raise InvalidArgument("Arguments `namespace` and `all_namespaces` exclude each other.")
        raise InvalidArgument("Argument `namespace` is required, or `all_namespaces: true`; none is assumed.")
    return validated


@dataclass(frozen=True, slots=True)
class Controls:
    """What the pipeline itself reads of the arguments of a tool that changes something."""

    dry_run: bool = False
    idempotency_key: str = ""
    confirm: str = field(default="", repr=False)


def split_controls(arguments: Arguments) -> tuple[Controls, Arguments]:
    """Validated arguments as the pipeline's part and the tool's own."""
    controls = {name: arguments[name] for name in CONTROLS if name in arguments}
    own = {name: value for name, value in arguments.items() if name not in CONTROLS}
    return Controls(**controls), own


def preview_of(plan: Plan) -> ToolAnswer:
    """The answer of a dry run."""
    preview = Preview(True, plan.summary, list(plan.changes), list(plan.notes), plan.confirm)
    structured: Structured = msgspec.to_builtins(preview)
    return ToolAnswer(structured, fenced_json(structured))


def check_output(tool: Tool, result: Structured) -> None:
    """Whether structured content is valid under the tool's output schema.

    Raises:
        Internal: it is not, which is a fault of the tool.
    """
    try:
        msgspec.convert(result, tool.result)
    except msgspec.ValidationError as error:
        raise Internal from error
