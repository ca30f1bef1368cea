"""`kubegate status`: the whole stack in one table."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from services.cli import supervisor
from services.cli.home import CLUSTER
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, run
from services.cli.service_status import ask
from services.cli.stack import Health, Stack
from services.cli.status_table import show
from services.common.telemetry.config import is_loopback

TOLD = ("version", "started_at", "uptime_seconds", "revision", "head", "certificates", "last_error")
"""What a service itself says, where it can be scraped; null where not."""


def status(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Show each service of the stack: running, ready, and if not, why; version, uptime, revision of what it decides by,
    end of its certificate, head of the audit log, last error. --json adds addresses and pids."""
    rows = run(collect(home))
    if json_output:
        emit_json(rows)
    else:
        show(rows, datetime.now(UTC))
    if any(row["state"] != "ready" for row in rows):
        raise typer.Exit(NEGATIVE)


async def collect(home: Path) -> list[dict[str, Any]]:
    """A row a service; each says for itself what it is missing."""
    async with Stack.load(home) as stack:
        endpoints = stack.layout.read_endpoints()
        metrics = endpoints.get("metrics", {})
        asked = [_row(stack, name, at, metrics.get(name, "")) for name, at in endpoints["services"].items()]
        return [row for row in await asyncio.gather(*asked) if row is not None]


async def _row(stack: Stack, name: str, address: str, url: str) -> dict[str, Any] | None:
    process = supervisor.find(stack.layout, name)
    # In a container of its own, say: only it knows whether it runs.
    elsewhere = process is None and not is_loopback(address)
    if elsewhere and name == CLUSTER:
        # Only the core reaches it there, and says in its own row when it does not answer.
        return None
    runs = process is not None or elsewhere
    told = await asyncio.to_thread(ask, name, url, stack.layout.operator) if url and runs else {}
    health = await stack.health(name) if runs else Health([])
    return {
        "service": name,
        "state": "stopped" if not runs else "not ready" if health.problems else "ready",
        "address": address,
        "pid": process.pid if process else None,
        "problems": health.problems,
        "notices": list(health.notices),
        **{key: told.get(key) for key in TOLD},
    }
