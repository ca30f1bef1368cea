"""Processes of a stack: started in sessions of their own, found again by pid files, stopped in order.

A pid file holds the pid and the start time of the process (field 22 of /proc/<pid>/stat), so that a number
that the system has given to somebody else is never signalled.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from services.cli.home import CLUSTER, HomeLayout

MODULES = {
    "audit": "services.audit",
    "authn": "services.authn",
    "authz": "services.authz",
    CLUSTER: "services.dev_cluster",
    "mcp-core": "services.mcp_core",
}
"""Start order; stopping goes backwards, so that audit outlives those who write to it."""

STOP_PATIENCE = 60.0
"""Seconds that a process gets between SIGTERM and SIGKILL: a call in flight at the edge may take 50, and ends first."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that a pid file names and that still is the one it names."""

    pid: int
    started: str


def start(layout: HomeLayout, name: str) -> Running:
    """Starts one service; its output goes to ``run/<name>.log``."""
    log_path = layout.run / f"{name}.log"
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE", "PYTHONUNBUFFERED": "1"}
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULES[name], "--config", str(layout.config(name))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.root,
            env=environment,
            start_new_session=True,
        )
    running = Running(process.pid, _started(process.pid) or "")
    (layout.run / f"{name}.pid").write_text(f"{running.pid} {running.started}\n", encoding="ascii")
    return running


def find(layout: HomeLayout, name: str) -> Running | None:
    """The running process of a service, or ``None``."""
    try:
        pid_text, _, started = (layout.run / f"{name}.pid").read_text(encoding="ascii").strip().partition(" ")
        pid = int(pid_text)
    except (OSError, ValueError):
        return None
    return Running(pid, started) if _started(pid) == started and started else None


def stop(layout: HomeLayout, name: str) -> bool:
    """Stops a service: SIGTERM, then SIGKILL when it does not end. Returns whether there was one."""
    running = find(layout, name)
    if running is not None:
        _signal(running, signal.SIGTERM)
        if not _wait_gone(layout, name, STOP_PATIENCE):
            _signal(running, signal.SIGKILL)
            _wait_gone(layout, name, STOP_PATIENCE)
    (layout.run / f"{name}.pid").unlink(missing_ok=True)
    return running is not None


def stop_all(layout: HomeLayout) -> list[str]:
    """Stops every service of the home, the edge first; returns the names of those that ran."""
    return [name for name in reversed(MODULES) if stop(layout, name)]


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a service's log."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _signal(running: Running, number: signal.Signals) -> None:
    try:
        os.kill(running.pid, number)
    except ProcessLookupError:
        pass


def _wait_gone(layout: HomeLayout, name: str, patience: float) -> bool:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if find(layout, name) is None:
            return True
        time.sleep(0.05)
    return False


def _started(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] != "Z":
        return fields[19]
    try:
        # A child of ours that ended stays a zombie until it is waited for. While other threads of it still end,
        # it cannot be, and has not ended.
        return None if os.waitpid(pid, os.WNOHANG)[0] else fields[19]
    except ChildProcessError:
        return None
