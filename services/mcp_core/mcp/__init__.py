"""MCP at /mcp: the SDK's low-level server behind our own edge, 2025 and 2026-07-28 clients on one endpoint.

One file per concern: ``endpoint`` takes a POST through the SDK and sees to its record, ``messages`` knows which bodies
are MCP at all, ``exchange`` is one request while it is served, ``containment`` turns every failure into a sentence of
ours; ``tools`` and the like are the handlers. None of them decides anything: what touches the cluster goes through
``Pipeline``.
"""

from services.mcp_core.mcp.endpoint import McpEndpoint

__all__ = ["McpEndpoint"]
