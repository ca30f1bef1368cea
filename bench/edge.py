"""`make bench-edge`: what the edge costs for a list, a trivial call and a denied one, over MCP and over REST (I6.12).

Everything is on, as in `make bench`: TLS, authn, authz, two durable records. The same is asked over MCP (2026-07-28)
and over REST, which takes the same way but for the SDK: the difference of the core's CPU is the SDK's share, with the
JSON-RPC around the answer. tools/list has GET /mcp/resources as its twin, which answers with more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench.client import Connection, mcp_request, request_bytes, tool_call
from bench.load import closed_loop, per_request_ms, succeeded
from bench.run import OUT, own_cpu, table
from bench.stack import BenchStack, bench_stack

TRIVIAL, TRIVIAL_ARGUMENTS = "list_services", {"namespace": "default", "limit": 1}
DENIED, DENIED_ARGUMENTS = "list_secrets", {"namespace": "default"}
CORE = "mcp-core"


@dataclass(frozen=True)
class Case:
    """One thing to measure, and which answer counts."""

    name: str
    interface: str
    request: bytes
    counts: Callable[[int, bytes], bool] = succeeded


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-edge", description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    parser.add_argument("--out", type=Path, default=OUT / "edge.json")
    return parser.parse_args()


def cases(port: int, key: str) -> list[Case]:
    """What is measured, each over MCP and then over REST."""
    head = ("GET /mcp/resources HTTP/1.1", f"Host: localhost:{port}", f"Authorization: Bearer {key}")
    listing = "\r\n".join([*head, "", ""]).encode()

    def rest(tool: str, arguments: dict[str, Any]) -> bytes:
        return request_bytes(port, f"/mcp/tools/{tool}", key, arguments, {})

    return [
        Case("list", "mcp", mcp_request(port, key, "tools/list", {})),
        Case("list", "rest", listing),
        Case("trivial call", "mcp", tool_call(port, key, TRIVIAL, TRIVIAL_ARGUMENTS)),
        Case("trivial call", "rest", rest(TRIVIAL, TRIVIAL_ARGUMENTS)),
        Case(
            "denied call",
            "mcp",
            tool_call(port, key, DENIED, DENIED_ARGUMENTS),
            lambda status, body: status == 200 and b'"isError":true' in body,
        ),
        Case("denied call", "rest", rest(DENIED, DENIED_ARGUMENTS), lambda status, body: status == 403),
    ]


async def measure(stack: BenchStack, case: Case, concurrency: int, seconds: float) -> dict[str, Any]:
    """One line of the table, as JSON."""
    await closed_loop(stack.port, stack.tls, case.request, concurrency, min(1.0, seconds), case.counts)
    cpu = stack.cpu() | {"callers": own_cpu()}
    sample = await closed_loop(stack.port, stack.tls, case.request, concurrency, seconds, case.counts)
    spent = per_request_ms(cpu, stack.cpu() | {"callers": own_cpu()}, sample.requests)
    return {
        "case": case.name,
        "interface": case.interface,
        "concurrency": concurrency,
        "requests": sample.requests,
        "requests_per_second": round(sample.per_second, 1),
        "p50_ms": round(sample.percentile_ms(50), 2),
        "p99_ms": round(sample.percentile_ms(99), 2),
        "cpu_ms_per_request": {name: round(value, 3) for name, value in spent.items()},
    }


async def bench(stack: BenchStack, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, as JSON."""
    sizes = {}
    for name in ("viewer", "admin"):
        connection = await Connection.open(stack.port, stack.tls)
        _, body = await connection.exchange(mcp_request(stack.port, stack.key(name), "tools/list", {}))
        await connection.close()
        tools = json.loads(body)["result"]["tools"]
        sizes[name] = {"tools": len(tools), "bytes": len(json.dumps(tools, separators=(",", ":")).encode())}
    runs = [
        await measure(stack, case, concurrency, options.seconds)
        for concurrency in options.concurrency
        for case in cases(stack.port, stack.key("viewer"))
    ]
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "tools_list": sizes,
        "sdk_share_of_core": shares(runs),
        "runs": runs,
    }


def shares(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Case and concurrency -> which part of the core's CPU over MCP REST does without; below 0, REST costs more."""
    core = {
        (run["case"], run["concurrency"], run["interface"]): run["cpu_ms_per_request"].get(CORE, 0.0) for run in runs
    }
    found: dict[str, dict[str, float]] = {}
    for (case, concurrency, interface), spent in core.items():
        if interface == "mcp" and spent > 0:
            without = core[case, concurrency, "rest"]
            found.setdefault(case, {})[str(concurrency)] = round((spent - without) / spent, 3)
    return found


def show(result: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console(highlight=False)
    services = [name for name in result["runs"][0]["cpu_ms_per_request"] if name != "callers"]
    rates = table("the edge, everything on", "case", "over", "c", "requests/s", "p50 ms", "p99 ms")
    cpu = table("CPU ms a request", "case", "over", "c", *services, "sum", "(callers)", "SDK's share of the core")
    for run in result["runs"]:
        place = (run["case"], run["interface"], str(run["concurrency"]))
        rates.add_row(*place, *(str(run[key]) for key in ("requests_per_second", "p50_ms", "p99_ms")))
        spent = run["cpu_ms_per_request"]
        own = [spent[name] for name in services]
        share = result["sdk_share_of_core"].get(run["case"], {}).get(str(run["concurrency"]))
        said = f"{share:.0%}" if run["interface"] == "mcp" and share is not None else ""
        cpu.add_row(*place, *(f"{value:.2f}" for value in (*own, sum(own), spent["callers"])), said)
    sizes = table("tools/list", "", "tools", "bytes")
    for name, size in result["tools_list"].items():
        sizes.add_row(name, str(size["tools"]), str(size["bytes"]))
    for part in (rates, cpu, sizes):
        console.print(part, "")


def main() -> None:
    """Measures, prints, and writes the JSON file."""
    options = _options()
    with bench_stack() as stack:
        result = uvloop.run(bench(stack, options))
    show(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
