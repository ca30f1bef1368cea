"""A stack of its own for a measurement, and what its processes cost, read from /proc."""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KUBEGATE = str(Path(sys.executable).with_name("kubegate"))
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class BenchStack:
    """A running stack. ready_seconds: from the command to "all are healthy", first start included."""

    home: Path
    ready_seconds: float
    again_seconds: float

    @property
    def port(self) -> int:
        """Port of the edge."""
        endpoints: dict[str, Any] = json.loads((self.home / "endpoints.json").read_text(encoding="utf-8"))
        return int(urlsplit(str(endpoints["base_url"])).port or 443)

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's kubeconfig."""
        endpoints: dict[str, Any] = json.loads((self.home / "endpoints.json").read_text(encoding="utf-8"))
        return Path(str(endpoints["kubeconfig"]))

    @property
    def tls(self) -> ssl.SSLContext:
        """Trusts the edge's CA."""
        return ssl.create_default_context(cafile=str(self.home / "ca" / "edge" / "ca.crt"))

    def key(self, name: str) -> str:
        """An API key that `up` made: admin or viewer."""
        return (self.home / "credentials" / f"{name}.key").read_text(encoding="ascii").strip()

    def pids(self) -> dict[str, int]:
        """Service name -> process id."""
        files = sorted((self.home / "run").glob("*.pid"))
        return {path.stem: int(path.read_text(encoding="ascii").split()[0]) for path in files}

    def cpu(self) -> dict[str, float]:
        """Service name -> CPU seconds spent so far, user and system."""
        return {name: cpu_seconds(pid) for name, pid in self.pids().items()}

    def rss(self) -> dict[str, int]:
        """Service name -> resident memory in bytes."""
        return {name: rss_bytes(pid) for name, pid in self.pids().items()}

    def events(self) -> int:
        """Events recorded so far: lines of the mirror."""
        with (self.home / "audit" / "audit.log").open("rb") as mirror:
            return sum(1 for _ in mirror)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`kubegate ARGS --home HOME`."""
        return _kubegate(self.home, *args)


@contextmanager
def bench_stack() -> Iterator[BenchStack]:
    """Starts a stack on free ports in a temporary home, twice for the two start times, and removes it."""
    with tempfile.TemporaryDirectory(prefix="kubegate-bench-") as directory:
        home = Path(directory) / "home"
        try:
            first = _timed_up(home)
            _kubegate(home, "down").check_returncode()
            yield BenchStack(home, first, _timed_up(home))
        finally:
            _kubegate(home, "down")


@contextmanager
def started(*options: str) -> Iterator[BenchStack]:
    """A stack that is started once, with options of `kubegate up`."""
    with tempfile.TemporaryDirectory(prefix="kubegate-bench-") as directory:
        home = Path(directory) / "home"
        try:
            yield BenchStack(home, _timed_up(home, *options), 0.0)
        finally:
            _kubegate(home, "down")


def _timed_up(home: Path, *options: str) -> float:
    began = time.monotonic()
    done = _kubegate(home, "up", "--detach", "--port", "0", *options)
    if done.returncode != 0:
        raise SystemExit(f"bench: the stack did not start\n{done.stderr}")
    return time.monotonic() - began


def _kubegate(home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KUBEGATE, *args, "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has spent, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
