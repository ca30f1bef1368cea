"""A core with the fixtures: ``python -m tests.conformance.core --config FILE``. As services.mcp_core otherwise."""

from __future__ import annotations

from services.common.runtime import run
from services.mcp_core.config import Config
from services.mcp_core.wiring import main
from tests.conformance.fixtures import with_fixtures


async def serve(config: Config) -> None:
    """The core of the product, but for what is served."""
    await main(config, with_fixtures)


run(serve, Config, "tests.conformance.core", "Serves what the MCP conformance suite asks for. For tests only.")
