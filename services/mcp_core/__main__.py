"""Starts the core: ``python -m services.mcp_core --config FILE``."""

from services.common.runtime import run
from services.mcp_core.config import Config
from services.mcp_core.wiring import main

run(main, Config, "services.mcp_core", "Serves MCP and REST clients and operates the cluster for them.")
