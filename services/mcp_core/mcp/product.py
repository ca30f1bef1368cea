"""What an installation serves: the tools that its configuration offers, with the prompts and resources over them."""

from __future__ import annotations

from collections.abc import Mapping

from services.mcp_core.mcp.pack import Pack
from services.mcp_core.mcp.product_prompts import PROMPTS
from services.mcp_core.mcp.product_resources import SOURCES
from services.mcp_core.tools.base import Tool


def product(tools: Mapping[str, Tool]) -> Pack:
    """The pack over these tools; prompts and resources whose tools are switched off go with them."""
    return Pack(
        tools=tools,
        prompts={name: prompt for name, prompt in PROMPTS.items() if all(tool in tools for tool in prompt.tools)},
        resources=tuple(source for source in SOURCES if source.tool in tools),
    )
