"""MCP at /mcp: the SDK's low-level server behind our own edge, 2025 and 2026-07-28 clients on one endpoint.

One file per concern. ``endpoint`` takes a POST through the SDK and sees to its record; ``messages`` knows which
bodies are MCP, ``exchange`` is one request while it is served, ``in_flight`` and ``streaming`` let it be cancelled
and be heard of; ``telling`` says what its client hears before the answer. ``server`` puts the handlers together:
``tools``, ``resources``, ``prompts``, ``completions``, over what is in a ``pack`` (the product's is ``product``);
``reading`` fetches what prompts and resources show, ``listed`` is a tool as lists show it, ``pages`` cuts lists.
``containment`` turns every failure into a sentence of ours, ``span`` traces a request, ``request_state`` seals what
clients carry between the rounds that ``dialogue`` asks for. Before something is destroyed, ``confirming`` asks
clients of 2026; ``elicitation`` asks those of 2025 that, and what else a tool asks, in the stream of a call that is
``held`` open.

None of them decides anything: what touches the cluster goes through ``Pipeline``.
"""

from services.mcp_core.mcp.elicitation import HELD_SECONDS, SESSION, Elicitations
from services.mcp_core.mcp.endpoint import McpEndpoint
from services.mcp_core.mcp.pack import Pack
from services.mcp_core.mcp.product import product
from services.mcp_core.mcp.server import McpSettings

__all__ = ["HELD_SECONDS", "SESSION", "Elicitations", "McpEndpoint", "McpSettings", "Pack", "product"]
