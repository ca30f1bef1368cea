"""Further cores beside the one of a stack: a replica, or one that serves the fixtures of the conformance suite."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from services.cli.home import free_port
from tests.e2e.stack import RunningStack, eventually

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Core:
    """One running core of a stack. ``base_url``: where it listens, whatever it is told to call itself."""

    stack: RunningStack
    base_url: str


@contextlib.contextmanager
def core(stack: RunningStack, name: str, module: str = "services.mcp_core", **settings: Any) -> Iterator[Core]:
    """A core with the identity and the peers of the stack's own, on a port of its own."""
    place = stack.home / "mcp-core"
    config = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    port = free_port()
    base_url = f"https://localhost:{port}"
    config |= {"listen": f"127.0.0.1:{port}", "base_url": base_url, "allowed_origins": [f"http://localhost:{port}"]}
    # The addresses of the metrics and of the health are the other core's.
    for key in ("telemetry", "health_listen"):
        config.pop(key, None)
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | settings), encoding="utf-8")
    log = (stack.home / "run" / f"{name}.log").open("wb")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-m", module, "--config", str(path)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            eventually(lambda: process.poll() is not None or _ready(stack, base_url), f"{module} ready")
            assert process.poll() is None, Path(log.name).read_text(encoding="utf-8")
            yield Core(stack, base_url)
        finally:
            process.terminate()
            process.wait(20)


def _ready(stack: RunningStack, base_url: str) -> bool:
    try:
        with stack.client() as http:
            return http.get(base_url + "/readyz").status_code == 200
    except httpx.TransportError:
        # Nobody listens yet.
        return False
