"""What is served where there are several clusters: everything names one of them.

Tools and prompts take an argument `cluster`. A resource is `k8s://CLUSTER@NAMESPACE/KIND/NAME`, a template for each
cluster. That a cluster is one of those is not the schema's business: an unknown one is denied, and recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from services.mcp_core.clusters import ARGUMENT
from services.mcp_core.mcp.pack import Argument, Block, Call, Listing, Pack, Prompt, ResourceSource
from services.mcp_core.model import ToolAnswer
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.tools.base import Tool


def across(pack: Pack, clusters: Sequence[str]) -> Pack:
    """The pack for these clusters; as it is for one."""
    if len(clusters) < 2:
        return pack
    return replace(
        pack,
        tools={name: _tool(tool, clusters) for name, tool in pack.tools.items()},
        prompts={name: _prompt(prompt) for name, prompt in pack.prompts.items()},
        resources=tuple(_source(source, cluster) for source in pack.resources for cluster in clusters),
        clusters=tuple(clusters),
    )


def _tool(tool: Tool, clusters: Sequence[str]) -> Tool:
    kind = Annotated[
        str,
        msgspec.Meta(pattern=DNS1123_LABEL, description="Which cluster.", extra_json_schema={"enum": list(clusters)}),
    ]
    arguments = msgspec.defstruct(
        tool.arguments.__name__,
        [(ARGUMENT, kind)],
        bases=(tool.arguments,),
        forbid_unknown_fields=True,
        frozen=True,
        kw_only=True,
    )
    return replace(tool, arguments=arguments)


def _prompt(prompt: Prompt) -> Prompt:
    def calls(arguments: Mapping[str, str]) -> Sequence[Call]:
        named = {ARGUMENT: arguments[ARGUMENT]}
        return [(tool, {**given, **named}) for tool, given in prompt.calls(arguments)]

    def messages(arguments: Mapping[str, str], answers: Sequence[ToolAnswer]) -> Sequence[Block]:
        said = f"This is cluster {arguments[ARGUMENT]}: name it in every call."
        return [*prompt.messages(arguments, answers), {"role": "user", "content": {"type": "text", "text": said}}]

    named = Argument(ARGUMENT, "Which cluster.", completes=ARGUMENT)
    return replace(prompt, arguments=(named, *prompt.arguments), calls=calls, messages=messages)


def _source(source: ResourceSource, cluster: str) -> ResourceSource:
    scheme = source.template.partition("://")[0] + "://"
    own = f"{scheme}{cluster}@"

    def moved(uri: str) -> str:
        return own + uri.removeprefix(scheme)

    def call(uri: str) -> Mapping[str, Any] | None:
        found = source.call(scheme + uri.removeprefix(own)) if uri.startswith(own) else None
        return None if found is None else {**found, ARGUMENT: cluster}

    listing = source.listing
    if listing is not None:
        listed = listing.resources
        listing = Listing(
            listing.tool,
            lambda answer: [{**each, "uri": moved(str(each["uri"]))} for each in listed(answer)],
            {**listing.arguments, ARGUMENT: cluster},
        )
    return replace(
        source,
        template=moved(source.template),
        name=f"{source.name}-{cluster}",
        title=f"{source.title} ({cluster})",
        call=call,
        listing=listing,
        fixed={ARGUMENT: cluster},
    )
