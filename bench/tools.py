"""`make bench-tools`: what a tool call costs, beside kubernetes-mcp-server where that is installed (I7.6).

Both list the same pods of the same cluster, in turns, so that a noisy machine is noisy for both. Ours with
everything on (TLS, authn, authz, three durable records); the peer with none of it. Then a deployment is scaled
(I8.12), 5,000 pods are listed, and mcp_core's memory watched.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench.client import BadAnswer, Connection, request_bytes
from bench.load import Sample, closed_loop, per_request_ms
from bench.peer import Peer, find, running
from bench.run import NAMESPACE, OUT, own_cpu, scale_to, table
from bench.stack import BenchStack, bench_stack
from bench.writes import show_writes, writes

KUBECTL = str(Path(sys.executable).with_name("kubectl"))
MANY = "feature-x"
"""Namespace of the many pods."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.tools", description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each turn")
    parser.add_argument("--turns", type=int, default=2, help="turns of each, at each concurrency")
    parser.add_argument("--pods", type=int, default=20, help="pods that list_pods finds")
    parser.add_argument("--many", type=int, default=5000, help="pods of the long list; 0 leaves it out")
    parser.add_argument("--peer", type=Path, help="kubernetes-mcp-server; default: the one on PATH, if any")
    parser.add_argument("--out", type=Path, default=OUT / "bench-tools.json")
    return parser.parse_args()


def kubectl(stack: BenchStack, *arguments: str, stdin: str = "") -> str:
    """kubectl as the cluster's administrator."""
    done = subprocess.run(
        [KUBECTL, "--kubeconfig", str(stack.kubeconfig), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def cluster_requests(stack: BenchStack, kind: str = "pods") -> int:
    """Requests for objects of a kind that the cluster has answered so far."""
    text = kubectl(stack, "get", "--raw", "/metrics")
    return sum(int(count) for count in re.findall(rf'resource="{re.escape(kind)}"}} (\d+)', text))


class Measured:
    """The turns of one server at one concurrency, together."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.cpu: dict[str, float] = {}
        self.cluster = 0

    def line(self) -> dict[str, Any]:
        """As JSON. CPU of the embedded cluster and of the callers is apart: neither is ours."""
        requests = sum(sample.requests for sample in self.samples)
        seconds = sum(sample.seconds for sample in self.samples)
        merged = Sample(0, seconds, tuple(sorted(one for sample in self.samples for one in sample.latencies)))
        spent = {name: round(value * 1000 / max(requests, 1), 3) for name, value in self.cpu.items()}
        aside = {name: spent.pop(name) for name in ("cluster", "callers") if name in spent}
        return {
            "requests": requests,
            "requests_per_second": round(requests / seconds, 1),
            "p50_ms": round(merged.percentile_ms(50), 2),
            "p99_ms": round(merged.percentile_ms(99), 2),
            "cpu_ms_per_request": spent,
            "cpu_ms_summed": round(sum(spent.values()), 3),
            "cpu_ms_beside": aside,
            "cluster_requests_per_call": round(self.cluster / max(requests, 1), 3),
        }


async def turn(
    stack: BenchStack, peer: Peer | None, request: bytes, concurrency: int, seconds: float, into: Measured
) -> None:
    """One turn of one server, after a short one that warms it up."""
    port, tls = (stack.port, stack.tls) if peer is None else (peer.port, None)

    def spent() -> dict[str, float]:
        services = stack.cpu()
        shown = services if peer is None else {"cluster": services["cluster"], **peer.cpu()}
        return shown | {"callers": own_cpu()}

    await closed_loop(port, tls, request, concurrency, min(1.0, seconds))
    asked, cpu = cluster_requests(stack), spent()
    sample = await closed_loop(port, tls, request, concurrency, seconds)
    after = spent()
    into.cluster += cluster_requests(stack) - asked
    into.samples.append(sample)
    for name, value in per_request_ms(cpu, after, 1).items():
        into.cpu[name] = into.cpu.get(name, 0.0) + value / 1000


async def alternate(
    stack: BenchStack, peer: Peer | None, ours: bytes, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both servers in turns at each concurrency."""
    runs = []
    for concurrency in options.concurrency:
        gate, other = Measured(), Measured()
        for _ in range(options.turns):
            await turn(stack, None, ours, concurrency, options.seconds, gate)
            if peer is not None:
                await turn(stack, peer, peer.request(NAMESPACE), concurrency, options.seconds, other)
        run: dict[str, Any] = {"concurrency": concurrency, "kubegate": gate.line()}
        if peer is not None:
            run["peer"] = other.line()
            run["ratios"] = {
                "cpu": round(run["kubegate"]["cpu_ms_summed"] / run["peer"]["cpu_ms_summed"], 2),
                "requests_per_second": round(
                    run["kubegate"]["requests_per_second"] / run["peer"]["requests_per_second"], 2
                ),
            }
        runs.append(run)
    return runs


async def long_list(stack: BenchStack, count: int) -> dict[str, Any]:
    """Makes many pods, lists them in every way, and says what an answer holds and what mcp_core's memory did."""
    made = []
    for index in range(count):
        variables = [{"name": f"VARIABLE_{number}", "value": "x" * 40} for number in range(20)]
        made.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"load-7c5ddbdf54-{index:05}", "namespace": MANY, "labels": {"app": "load"}},
                "spec": {"containers": [{"name": "app", "image": "app:1", "env": variables}]},
            }
        )
    await asyncio.to_thread(kubectl, stack, "create", "-f", "-", stdin="\n---\n".join(json.dumps(pod) for pod in made))
    connection = await Connection.open(stack.port, stack.tls)

    async def ask(**arguments: Any) -> tuple[dict[str, Any], int]:
        body = {"namespace": MANY, **arguments}
        request = request_bytes(stack.port, "/mcp/tools/list_pods", stack.key("admin"), body, {})
        status, answer = await connection.exchange(request)
        if status != 200:
            raise BadAnswer(answer.decode(errors="replace"))
        return json.loads(answer), len(answer)

    await ask(limit=1)
    before = stack.rss()["mcp-core"]
    first, characters = await ask()
    peak = before
    whole, size = await ask(limit=5000)
    for _ in range(3):
        whole, size = await ask(limit=5000)
        peak = max(peak, stack.rss()["mcp-core"])
    await connection.close()
    return {
        "pods": count,
        "default_answer": {
            "pods": len(first["pods"]),
            "remaining": first.get("remaining", 0),
            "characters": characters,
        },
        "whole_answer": {"pods": len(whole["pods"]), "characters": size},
        "rss_grew_mib": round((peak - before) / 2**20, 1),
    }


async def bench(stack: BenchStack, peer: Peer | None, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, as JSON."""
    request = await scale_to(stack, options.pods)
    runs = await alternate(stack, peer, request, options)
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "call": f"tools/call list_pods, {options.pods} pods",
        "peer": peer is not None,
        "runs": runs,
        "writes": await writes(stack, options.pods, options.seconds, cluster_requests),
        "long_list": await long_list(stack, options.many) if options.many else None,
    }


def show(result: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console(highlight=False)
    rates = table(
        f"{result['call']}", "c", "server", "requests/s", "p50 ms", "p99 ms", "CPU ms", "cluster requests/call"
    )
    for run in result["runs"]:
        for name in ("kubegate", "peer"):
            if line := run.get(name):
                keys = ("requests_per_second", "p50_ms", "p99_ms", "cpu_ms_summed", "cluster_requests_per_call")
                rates.add_row(str(run["concurrency"]), name, *(str(line[key]) for key in keys))
    console.print(rates, "")
    services = list(result["runs"][0]["kubegate"]["cpu_ms_per_request"])
    cpu = table("kubegate, CPU ms a request", "c", *services, "sum", "(cluster)", "(callers)")
    for run in result["runs"]:
        line = run["kubegate"]
        own = [line["cpu_ms_per_request"][name] for name in services]
        beside = [line["cpu_ms_beside"][name] for name in ("cluster", "callers")]
        cpu.add_row(str(run["concurrency"]), *(f"{value:.2f}" for value in (*own, line["cpu_ms_summed"], *beside)))
    console.print(cpu, "")
    for run in result["runs"]:
        if ratios := run.get("ratios"):
            console.print(
                f"c = {run['concurrency']}: {ratios['cpu']}x the peer's CPU a request (goal 0.6), "
                f"{ratios['requests_per_second']}x its requests/s (goal at 32: 2)"
            )
    if not result["peer"]:
        console.print("no peer beside us: `npm install kubernetes-mcp-server`, then PEER=.../kubernetes-mcp-server")
    show_writes(console, result["writes"])
    if many := result["long_list"]:
        default = many["default_answer"]
        console.print(
            f"{many['pods']} pods: by default {default['pods']} in {default['characters']} characters; all of them "
            f"in {many['whole_answer']['characters']}; mcp-core grew by {many['rss_grew_mib']} MiB (goal 50)"
        )


def main() -> None:
    """Measures, prints, and writes the JSON file."""
    options = _options()
    program = find(options.peer)
    with bench_stack() as stack, contextlib.ExitStack() as closing:
        peer = closing.enter_context(running(program, stack.kubeconfig)) if program is not None else None
        result = uvloop.run(bench(stack, peer, options))
    show(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
