"""What the endpoint serves: tools, prompts and resources, each as data.

A prompt or a resource names the tools that it reads the cluster with and says how its arguments become theirs: so
what it shows has passed the same decision, redaction and record as a call of the tool, and there is no second path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.mcp_core.model import ToolAnswer
from services.mcp_core.tools.base import Tool

Call = tuple[str, Mapping[str, Any]]
"""A tool's name and arguments."""

Block = Mapping[str, Any]
"""An MCP content block, message or resource, as JSON."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a prompt. ``completes``: "namespace", or the kind whose names it takes."""

    name: str
    description: str
    required: bool = True
    completes: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt. It is shown to who is offered every one of ``tools``.

    calls: of these tools, for given arguments. messages: what the prompt says, with the answers of the calls.
    """

    name: str
    title: str
    description: str
    arguments: tuple[Argument, ...]
    messages: Callable[[Mapping[str, str], Sequence[ToolAnswer]], Sequence[Block]]
    tools: tuple[str, ...] = ()
    calls: Callable[[Mapping[str, str]], Sequence[Call]] = lambda arguments: ()


@dataclass(frozen=True, slots=True)
class Listing:
    """How the resources of a source are listed: by a tool, a page at a time. ``continues``: it takes `continue`."""

    tool: str
    resources: Callable[[ToolAnswer], Sequence[Block]]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResourceSource:
    """Resources of one shape of URI, read by ``tool`` and shown to who is offered it.

    template: RFC 6570; without a variable it is one resource. call: the arguments for a URI, None where it is not of
    this source. contents: of the answer, as MCP has it. completes: what each variable takes, as for `Argument`;
    "kind" is any kind, "*" the names of the kind in another variable. fixed: arguments that every URI of it means.
    """

    template: str
    name: str
    title: str
    description: str
    mime_type: str
    tool: str
    call: Callable[[str], Mapping[str, Any] | None]
    contents: Callable[[str, ToolAnswer], Sequence[Block]]
    listing: Listing | None = None
    completes: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_template(self) -> bool:
        """Whether it stands for many."""
        return "{" in self.template


@dataclass(frozen=True, slots=True)
class Pack:
    """Everything that is served.

    subscribable: clients of 2025 may subscribe to what they may read. The product does not offer it, since there is no
    session to tell them of changes on. clusters: those that calls name; none where there is one only.
    """

    tools: Mapping[str, Tool]
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    resources: tuple[ResourceSource, ...] = ()
    subscribable: bool = False
    clusters: tuple[str, ...] = ()
