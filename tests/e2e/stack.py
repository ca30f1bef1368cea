"""A whole stack of real processes, driven the way a person would: the command line, curl, the log file."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

VIEWER_TOOLS = {
    *("list_pods", "get_pod", "get_pod_logs", "list_services", "get_service", "list_deployments", "get_deployment"),
    *(
        "top_pods",
        "rollout_status",
        "rollout_history",
        "list_resources",
        "get_resource",
        "explain_resource",
        "wait_for",
        "diagnose",
    ),
}
"""What the viewer's grants of four kinds allow: the tools for them, and those for any kind, for them."""

KUBEGATE = str(Path(sys.executable).with_name("kubegate"))
KUBECTL = str(Path(sys.executable).with_name("kubectl"))
PATIENCE = 60.0
"""Seconds that a test waits for something that must come; nothing asserts how long it took."""

T = TypeVar("T")


def eventually(probe: Callable[[], T | None], what: str) -> T:
    """The first truthy answer of ``probe``."""
    end = time.monotonic() + PATIENCE
    last: T | None = None
    while time.monotonic() < end:
        last = probe()
        if last:
            return last
        time.sleep(0.1)
    raise AssertionError(f"{what}: still {last!r} after {PATIENCE:.0f} s")


def kubegate(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command from a foreign working directory (no command may depend on it)."""
    done = subprocess.run(
        [KUBEGATE, *args], capture_output=True, text=True, cwd="/", timeout=150, stdin=subprocess.DEVNULL, check=False
    )
    if check and done.returncode != 0:
        raise AssertionError(f"kubegate {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@dataclass(frozen=True)
class RunningStack:
    """One home and what runs from it."""

    home: Path

    @classmethod
    def up(cls, home: Path, *options: str) -> "RunningStack":
        command = ("up", "--detach", "--home", str(home), "--port", "0", *options)
        # Stacks that start at the same time may find the same port free.
        first = kubegate(*command, check=False)
        if first.returncode != 0:
            assert "in use" in first.stderr, first.stderr
            kubegate(*command)
        return cls(home)

    @property
    def endpoints(self) -> Mapping[str, Any]:
        data: Mapping[str, Any] = json.loads((self.home / "endpoints.json").read_text(encoding="utf-8"))
        return data

    @property
    def base_url(self) -> str:
        return str(self.endpoints["base_url"])

    @property
    def mcp_url(self) -> str:
        return str(self.endpoints["mcp_url"])

    @property
    def ca_file(self) -> str:
        return str(self.endpoints["ca_file"])

    def secret(self, name: str) -> str:
        """A credential that ``up`` wrote: ``admin.key``, ``viewer.key``, ``admin.password``."""
        return (self.home / "credentials" / name).read_text(encoding="ascii").strip()

    @property
    def admin(self) -> str:
        return self.secret("admin.key")

    @property
    def viewer(self) -> str:
        return self.secret("viewer.key")

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``kubegate ARGS --home HOME``."""
        return kubegate(*args, "--home", str(self.home), check=check)

    def json(self, *args: str) -> Any:
        """``kubegate ARGS --json``, parsed."""
        return json.loads(self.run(*args, "--json").stdout)

    def new_key(self, identity: str, *options: str) -> str:
        """A fresh API key."""
        return str(self.json("keys", "create", "--identity", identity, *options)["key"])

    def stop_service(self, name: str) -> None:
        """Kills a process as a crash would."""
        pid = int((self.home / "run" / f"{name}.pid").read_text(encoding="ascii").split()[0])
        os.kill(pid, 9)
        eventually(lambda: not _alive(pid), f"{name} gone")

    def start_service(self, name: str) -> None:
        self.run("restart", name)

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client that trusts the edge's CA."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        return httpx.Client(
            base_url=self.base_url,
            verify=ssl.create_default_context(cafile=self.ca_file),
            headers=headers,
            trust_env=False,
            timeout=30,
            **options,
        )

    def call(self, tool: str, arguments: Mapping[str, Any], key: str | None = None) -> httpx.Response:
        """``POST /mcp/tools/TOOL``."""
        with self.client(self.admin if key is None else key) as client:
            return client.post(f"/mcp/tools/{tool}", json=dict(arguments))

    def result(self, tool: str, **arguments: Any) -> Any:
        """What a tool answers to the administrator, who confirms what has to be confirmed."""
        response = self.call(tool, arguments)
        if response.status_code == 428:
            response = self.call(tool, {**arguments, "confirm": response.json()["confirm"]})
        assert response.status_code == 200, response.text
        return response.json()

    def curl(self, *args: str) -> tuple[int, str]:
        """Status and body of one curl command against the edge."""
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", self.ca_file]
            + ["--write-out", "\n%{http_code}", *args],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def kubectl(self, *args: str, check: bool = True) -> str:
        """kubectl with the cluster administrator's kubeconfig."""
        done = subprocess.run(
            [KUBECTL, "--kubeconfig", str(self.endpoints["kubeconfig"]), *args],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stderr}")
        return done.stdout + done.stderr

    def events(self, **fields: Any) -> list[dict[str, Any]]:
        """Events of the mirror file whose fields have these values."""
        lines = Path(self.endpoints["audit_log"]).read_text(encoding="utf-8").splitlines()
        events: Sequence[dict[str, Any]] = [json.loads(line) for line in lines]
        return [event for event in events if all(event.get(name) == value for name, value in fields.items())]

    def down(self) -> None:
        self.run("down")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
