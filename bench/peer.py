"""kubernetes-mcp-server, a Go program from npm, beside us: no authentication, no policy, no record, no TLS.

It is not installed by kubegate: `npm install kubernetes-mcp-server`, then PEER=path or have it on PATH.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.stack import cpu_seconds, rss_bytes

NAME = "kubernetes-mcp-server"


@dataclass(frozen=True)
class Peer:
    """A running peer."""

    pid: int
    port: int

    def request(self, namespace: str) -> bytes:
        """A whole POST that lists the pods of a namespace."""
        params = {"name": "pods_list_in_namespace", "arguments": {"namespace": namespace}}
        content = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        lines = [
            "POST /mcp HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
            "MCP-Protocol-Version: 2025-06-18",
            f"Content-Length: {len(content)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + content

    def cpu(self) -> dict[str, float]:
        """CPU seconds spent so far."""
        return {"peer": cpu_seconds(self.pid)}

    def rss(self) -> int:
        """Resident memory in bytes."""
        return rss_bytes(self.pid)


def find(path: Path | None) -> str | None:
    """The peer's program; None where it is not installed. Of npm's wrapper, the program that it starts."""
    found = str(path) if path is not None else shutil.which(NAME)
    if found is None:
        return None
    inner = Path(found).resolve().parents[2] / f"{NAME}-linux-amd64" / "bin" / f"{NAME}-linux-amd64"
    return str(inner) if Path(found).suffix == ".js" or inner.is_file() else found


@contextmanager
def running(program: str, kubeconfig: Path) -> Iterator[Peer]:
    """Starts the peer on a free port and ends it. Its limit on requests to the cluster is lifted."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [program, "--kubeconfig", str(kubeconfig), "--port", str(port), "--bind-address", "127.0.0.1"]
    limits = {"KUBE_CLIENT_QPS": "100000", "KUBE_CLIENT_BURST": "100000"}
    process = subprocess.Popen(
        [*command, "--stateless"],
        env={"PATH": os.environ["PATH"], "HOME": str(kubeconfig.parent), **limits},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Peer(process.pid, port)
    finally:
        process.terminate()
        process.wait(10)
