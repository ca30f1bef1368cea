"""What a change costs: scale_deployment with everything on, and its preview (I8.12).

The number of pods stays what it is, so that the cluster's controllers rest and the call itself is what is measured.
"""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from bench.client import tool_call
from bench.load import closed_loop, per_request_ms
from bench.run import NAMESPACE, own_cpu, table
from bench.stack import BenchStack

CONCURRENCY = (1, 8)

CALLS: dict[str, dict[str, Any]] = {"scale": {}, "preview": {"dry_run": True}}
"""What is measured, with the arguments beside the deployment's."""


def core_records(stack: BenchStack) -> int:
    """Records of tool calls so far: the core's own, not those of authn and authz."""
    with (stack.home / "audit" / "audit.log").open("rb") as mirror:
        return sum(b'"mcp_request"' in line for line in mirror)


async def writes(
    stack: BenchStack, replicas: int, seconds: float, cluster_requests: Callable[[BenchStack, str], int]
) -> list[dict[str, Any]]:
    """A line for each call and concurrency, as JSON. cluster_requests: answered so far, by the kind's name."""
    lines = []
    for name, further in CALLS.items():
        arguments = {"name": "nginx", "namespace": NAMESPACE, "replicas": replicas, **further}
        request = tool_call(stack.port, stack.key("admin"), "scale_deployment", arguments)
        for concurrency in CONCURRENCY:
            await closed_loop(stack.port, stack.tls, request, concurrency, min(1.0, seconds))
            asked, records = cluster_requests(stack, "deployments.apps"), core_records(stack)
            cpu = stack.cpu() | {"callers": own_cpu()}
            sample = await closed_loop(stack.port, stack.tls, request, concurrency, seconds)
            spent = per_request_ms(cpu, stack.cpu() | {"callers": own_cpu()}, sample.requests)
            calls = max(sample.requests, 1)
            asked, records = cluster_requests(stack, "deployments.apps") - asked, core_records(stack) - records
            beside = {service: round(spent.pop(service), 3) for service in ("cluster", "callers")}
            lines.append(
                {
                    "call": name,
                    "concurrency": concurrency,
                    "requests": sample.requests,
                    "requests_per_second": round(sample.per_second, 1),
                    "p50_ms": round(sample.percentile_ms(50), 2),
                    "p99_ms": round(sample.percentile_ms(99), 2),
                    "cpu_ms_per_request": {service: round(value, 3) for service, value in spent.items()},
                    "cpu_ms_summed": round(sum(spent.values()), 3),
                    "cpu_ms_beside": beside,
                    "cluster_requests_per_call": round(asked / calls, 2),
                    "records_per_call": round(records / calls, 2),
                }
            )
    return lines


def show_writes(console: Console, lines: list[dict[str, Any]]) -> None:
    """Prints the table."""
    services = list(lines[0]["cpu_ms_per_request"])
    columns = ("call", "c", "calls/s", "p50 ms", *services, "sum", "asked", "records")
    title = "scale_deployment, CPU ms a call; requests to the cluster and records of the core a call"
    shown = table(title, *columns)
    for line in lines:
        spent = [f"{line['cpu_ms_per_request'][service]:.2f}" for service in services]
        keys = ("cpu_ms_summed", "cluster_requests_per_call", "records_per_call")
        rates = (str(line["requests_per_second"]), str(line["p50_ms"]))
        shown.add_row(line["call"], str(line["concurrency"]), *rates, *spent, *(str(line[key]) for key in keys))
    console.print(shown, "")
