"""The stack as docker-compose runs it, driven from the machine's side: published port, commands, signals."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compose.engine import Engine, Room
from tests.compose.images import PROMETHEUS, ROOT
from tests.compose.machine import run, say
from tests.fakes.under_load import Load

PATIENCE = 180.0
"""Seconds that something may take which must come."""

STACK = ("bootstrap", "mcp-core", "prometheus")
"""What is started, with all that it depends on. No images of the others can be had here."""


@dataclass(frozen=True)
class Project:
    """A copy of the files that a user has, and the engine that they run on."""

    engine: Engine
    directory: Path
    program: str = "docker-compose"

    @classmethod
    def place(cls, engine: Engine, directory: Path) -> "Project":
        directory.mkdir()
        shutil.copy(ROOT / "docker-compose.yml", directory)
        shutil.copytree(ROOT / "deploy", directory / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        # As git has them, whatever this machine's umask is: containers read them as their own user.
        run(["chmod", "-R", "a+rX", str(directory)])
        return cls(engine, directory)

    @property
    def variables(self) -> dict[str, str]:
        own = {"COMPOSE_PROJECT_NAME": "kubegate", "KUBEGATE_PROMETHEUS_IMAGE": PROMETHEUS}
        return {**self.engine.variables, **own, "COMPOSE_HTTP_TIMEOUT": "180"}

    def compose(self, *args: str, check: bool = True, timeout: float = 300) -> str:
        """What ``docker-compose ARGS`` prints."""
        command = [self.program, "--project-directory", str(self.directory), "-f", self.file, *args]
        return run(command, check=check, timeout=timeout, extra=self.variables).stdout

    @property
    def file(self) -> str:
        return str(self.directory / "docker-compose.yml")

    def cli(self, *args: str, check: bool = True) -> str:
        """A command in the container of the command line."""
        return self.compose("run", "--rm", "-T", "cli", *args, check=check)

    def execute(self, service: str, *command: str) -> str:
        """What a command in a running container prints."""
        return self.engine.docker("exec", self.container(service), *command)

    def container(self, service: str) -> str:
        return self.engine.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.service={service}")

    def state(self, service: str) -> dict[str, Any]:
        """``docker inspect`` of a service's container."""
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", self.container(service)))
        return found[0]

    def healthy(self, *services: str) -> bool:
        for service in services:
            status = self.state(service)["State"]
            if not status["Running"] or status["Health"]["Status"] != "healthy":
                return False
        return True

    def crash(self, service: str) -> None:
        """Kills a service's first process from outside, as a lack of memory would."""
        pid = str(self.state(service)["State"]["Pid"])
        run(self.engine.inside("kill", "-9", pid, pids=True))

    def client(self, *command: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command where the published port is."""
        return run(self.engine.inside(*command), check=check, timeout=timeout)

    def load(self, output: Path, files: Sequence[Path]) -> Load:
        """Callers from now on; ``files`` as ``Load`` takes them."""
        return Load("https://localhost:8443", files, output, eventually, prefix=self.engine.inside())


def eventually(probe: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first truthy answer of ``probe``."""
    end = time.monotonic() + patience
    last: Any = None
    while time.monotonic() < end:
        try:
            last = probe()
        except (AssertionError, OSError, ValueError, KeyError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.5)
    say(f"waited in vain: {what}")
    raise AssertionError(f"{what}: still {last!r} after {patience:.0f} s")


def fetched(project: Project, room: Room) -> dict[str, Path]:
    """Files of what a client needs, as the README fetches them: ca.crt, admin.key, viewer.key, admin.password."""
    files = {}
    for name in ("ca.crt", "admin.key", "viewer.key", "admin.password"):
        files[name] = room.path / name
        files[name].write_text(project.cli("cat", f"/state/credentials/{name}"), encoding="ascii")
    return files
