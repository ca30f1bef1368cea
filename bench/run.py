"""`make bench`: tools/call list_pods with everything on, at growing concurrency (I2.12).

Everything on means: TLS at the edge, the key proven by authn for every request, the call decided by authz or by a
decision of authz that its lease still vouches for, two durable records a request (authn's and the core's; authz's where
it decides), impersonation, one request to the embedded cluster.
The callers run on the same machine; their CPU is reported too, as "callers".
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.client import BadAnswer, Connection, request_bytes, tool_call
from bench.load import closed_loop, per_request_ms
from bench.stack import BenchStack, bench_stack

OUT = Path(__file__).parent / "out"
NAMESPACE = "default"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--pods", type=int, default=20, help="pods that list_pods finds")
    parser.add_argument("--out", type=Path, default=OUT / "tools.json")
    return parser.parse_args()


async def scale_to(stack: BenchStack, pods: int) -> bytes:
    """Gives nginx so many pods and waits for them; returns the request that the bench repeats.

    Raises:
        BadAnswer: the stack refused.
    """
    connection = await Connection.open(stack.port, stack.tls)
    admin = stack.key("admin")
    scale = {"name": "nginx", "namespace": NAMESPACE, "replicas": pods}
    status, body = await connection.exchange(request_bytes(stack.port, "/mcp/tools/scale_deployment", admin, scale, {}))
    if status != 200:
        raise BadAnswer(body.decode(errors="replace"))
    request = tool_call(stack.port, stack.key("viewer"), "list_pods", {"namespace": NAMESPACE})
    for _ in range(600):
        status, body = await connection.exchange(request)
        if status == 200 and body.count(b'"Running"') >= pods:
            break
        await asyncio.sleep(0.1)
    else:
        raise BadAnswer(f"{pods} pods did not come: {body[:400].decode(errors='replace')}")
    await connection.close()
    return request


def own_cpu() -> float:
    """CPU seconds of the callers: this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(stack: BenchStack, request: bytes, concurrency: int, seconds: float) -> dict[str, Any]:
    """One line of the table, as JSON."""
    await closed_loop(stack.port, stack.tls, request, concurrency, min(2.0, seconds))
    events, cpu = stack.events(), stack.cpu() | {"callers": own_cpu()}
    sample = await closed_loop(stack.port, stack.tls, request, concurrency, seconds)
    cpu_ms = per_request_ms(cpu, stack.cpu() | {"callers": own_cpu()}, sample.requests)
    return {
        "concurrency": concurrency,
        "requests": sample.requests,
        "requests_per_second": round(sample.per_second, 1),
        "p50_ms": round(sample.percentile_ms(50), 2),
        "p99_ms": round(sample.percentile_ms(99), 2),
        "cpu_ms_per_request": {name: round(value, 3) for name, value in cpu_ms.items()},
        "events_per_request": round((stack.events() - events) / max(sample.requests, 1), 2),
    }


async def bench(stack: BenchStack, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, as JSON."""
    started_rss = stack.rss()
    request = await scale_to(stack, options.pods)
    runs = [await measure(stack, request, concurrency, options.seconds) for concurrency in options.concurrency]
    loaded_rss = stack.rss()
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "call": f"tools/call list_pods, {options.pods} pods",
        "start": {"first_seconds": round(stack.ready_seconds, 2), "again_seconds": round(stack.again_seconds, 2)},
        "rss_mib": {
            name: {"started": round(started_rss[name] / 2**20, 1), "loaded": round(loaded_rss[name] / 2**20, 1)}
            for name in started_rss
        },
        "runs": runs,
    }


def table(title: str, *columns: str) -> Table:
    """An empty table."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right")
    return made


def show(result: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console(highlight=False)
    rates = table(f"{result['call']}, everything on", "c", "requests/s", "p50 ms", "p99 ms", "events/request")
    services = [name for name in result["runs"][0]["cpu_ms_per_request"] if name != "callers"]
    cpu = table("CPU ms a request", "c", *services, "sum", "(callers)")
    for run in result["runs"]:
        rates.add_row(
            *(str(run[key]) for key in ("concurrency", "requests_per_second", "p50_ms", "p99_ms", "events_per_request"))
        )
        spent = run["cpu_ms_per_request"]
        own = [spent[name] for name in services]
        cpu.add_row(str(run["concurrency"]), *(f"{value:.2f}" for value in (*own, sum(own), spent["callers"])))
    memory = table("resident memory, MiB", "", *result["rss_mib"])
    for moment in ("started", "loaded"):
        memory.add_row(moment, *(str(sizes[moment]) for sizes in result["rss_mib"].values()))
    start = result["start"]
    for part in (rates, cpu, memory):
        console.print(part, "")
    console.print(f"start to ready: {start['first_seconds']} s in an empty home, {start['again_seconds']} s again")


def main() -> None:
    """Measures, prints, and writes the JSON file."""
    options = _options()
    with bench_stack() as stack:
        result = uvloop.run(bench(stack, options))
        verified = stack.run("audit", "verify")
    result["audit_verify"] = verified.returncode
    show(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.out}")
    if verified.returncode != 0:
        raise SystemExit(f"the record of the bench does not verify: {verified.stdout}{verified.stderr}")


if __name__ == "__main__":
    main()
