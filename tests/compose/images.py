"""The images of the stack, built as a user builds them, over bases that come from Debian's packages alone."""

import os
import subprocess
import time
from pathlib import Path

from tests.compose.engine import Engine
from tests.compose.machine import PROXIES, base_tree, environment, run, say

ROOT = Path(__file__).parents[2]
TARGETS = {
    "authn": "kubegate/authn",
    "authz": "kubegate/authz",
    "audit": "kubegate/audit",
    "mcp-core": "kubegate/mcp-core",
    "dev-cluster": "kubegate/dev-cluster",
    "cli": "kubegate/cli",
}
BASE = "kubegate-test/base"
POSTGRES_BASE = "kubegate-test/postgresql"
PROMETHEUS = "kubegate-test/prometheus"
BUILD_PATIENCE = 900.0
TRIES = 2
"""A registry of packages may be away for a moment."""


def build(engine: Engine) -> dict[str, int]:
    """Builds everything; returns the size of each image in bytes."""
    tree = base_tree()
    run(["docker", "import", str(tree), BASE], extra=engine.variables)
    own = [(image, str(ROOT), ["--target", target, "--build-arg", f"BASE={BASE}"]) for target, image in TARGETS.items()]
    lent = Path(__file__).parent / "bases"
    say("images: PostgreSQL and Prometheus of Debian's packages, and ours")
    _build(
        engine,
        [
            (POSTGRES_BASE, str(lent / "postgresql"), ["--build-arg", f"BASE={BASE}"]),
            (PROMETHEUS, str(lent / "prometheus"), ["--build-arg", f"BASE={BASE}"]),
            *own,
        ],
    )
    _build(engine, [("kubegate/postgres", str(ROOT / "deploy/postgres"), ["--build-arg", f"BASE={POSTGRES_BASE}"])])
    sizes = {
        image: int(engine.docker("image", "inspect", "--format", "{{.Size}}", image))
        for image in (BASE, POSTGRES_BASE, "kubegate/postgres", PROMETHEUS, *TARGETS.values())
    }
    for image, size in sizes.items():
        say(f"images: {image} {size / 1e6:.0f} MB ({(size - sizes[BASE]) / 1e6:.0f} MB above the base)")
    return sizes


def _build(engine: Engine, wanted: list[tuple[str, str, list[str]]]) -> None:
    """All at once: the engine shares what they have in common and runs as many steps as it can."""
    left = wanted
    for attempt in range(TRIES):
        running = [(one, _start(engine, *one)) for one in left]
        end = time.monotonic() + BUILD_PATIENCE
        failed = []
        for one, process in running:
            try:
                output, _ = process.communicate(timeout=max(end - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
            if process.returncode != 0:
                failed.append(one)
                say(f"images: {one[0]} failed:\n" + "\n".join(output.splitlines()[-15:]))
            elif attempt:
                say(f"images: {one[0]} at the second try")
        if not failed:
            return
        left = failed
    raise AssertionError(f"not built: {', '.join(image for image, _, _ in left)}")


def _start(engine: Engine, image: str, context: str, options: list[str]) -> "subprocess.Popen[str]":
    proxies = [f"--build-arg={name}" for name in PROXIES if name in os.environ]
    return subprocess.Popen(
        ["docker", "build", "--network=host", "--progress=plain", *proxies, *options, "--tag", image, context],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), **engine.variables},
        cwd="/",
    )
