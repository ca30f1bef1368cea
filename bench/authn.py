"""`make bench-authn`: what proving a caller costs (I3.16). A table, and JSON in bench/out.

- Authenticate over mTLS with 1 and 32 in flight, unary as platform services ask and over the stream as the core
  does, for an API key and a JWT of ours; each is recorded durably before it is answered.
- IssueToken with client credentials: an API key for a JWT.
- The same through a cache as the core has it: a hit, with the lease held.

The callers run on the same machine. Nothing asserts a duration.
"""

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.stack import BenchStack, bench_stack
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.common.clock import SystemClock
from services.common.config import PeerAddress, TlsFiles
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.grpc_stream import StreamClient
from services.common.tls import server_name
from services.mcp_core.adapters.principal_cache import PrincipalCache, Proven
from services.mcp_core.model import Credential, Principal

OUT = Path(__file__).parent / "out"
GOAL_GRANTS = 1000.0
GOAL_CACHED_US = 5.0

Ask = Callable[[], Awaitable[Any]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-authn", description=__doc__)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--out", type=Path, default=OUT / "authn.json")
    return parser.parse_args()


def _peer(stack: BenchStack) -> Peer:
    """authn, asked with the core's certificate."""
    endpoints = json.loads((stack.home / "endpoints.json").read_text(encoding="utf-8"))
    tls = stack.home / "mcp-core" / "tls"
    files = TlsFiles(cert_file=tls / "tls.crt", key_file=tls / "tls.key", ca_file=tls / "ca.crt")
    return Peer("authn", PeerAddress(address=endpoints["services"]["authn"], server_name=server_name("authn")), files)


async def closed_loop(ask: Ask, concurrency: int, seconds: float) -> list[float]:
    """Keeps so many questions in flight; returns their latencies, sorted, in seconds."""
    end = time.perf_counter() + seconds

    async def caller() -> list[float]:
        taken = []
        while (began := time.perf_counter()) < end:
            await ask()
            taken.append(time.perf_counter() - began)
        return taken

    results = await asyncio.gather(*(caller() for _ in range(concurrency)))
    return sorted(took for each in results for took in each)


async def measure(stack: BenchStack, what: str, ask: Ask, concurrency: int, seconds: float) -> dict[str, Any]:
    """One line of the table, as JSON."""
    await closed_loop(ask, concurrency, min(1.0, seconds))
    before = stack.cpu()
    latencies = await closed_loop(ask, concurrency, seconds)
    after = stack.cpu()
    count = len(latencies)
    cpu = {name: round((after[name] - before[name]) * 1000 / count, 3) for name in ("authn", "audit")}
    return {
        "what": what,
        "in_flight": concurrency,
        "per_second": round(count / seconds, 1),
        "p50_ms": round(latencies[count // 2] * 1000, 3),
        "p99_ms": round(latencies[min(count - 1, count * 99 // 100)] * 1000, 3),
        "cpu_ms": cpu,
        # What one core could do if the rest of the machine cost nothing.
        "per_second_of_authn_core": round(1000 / cpu["authn"], 1) if cpu["authn"] else None,
    }


class _Held:
    """A lease that holds, with a clock read as the real one has."""

    revision = 1

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._sent_at = self._clock.monotonic()

    def fresh(self) -> bool:
        return self._clock.monotonic() - self._sent_at < 3600


def measure_cached(rounds: int = 200_000) -> dict[str, Any]:
    """Microseconds of one hit in the core's principal cache."""
    cache = PrincipalCache(SystemClock())
    cache.lease = _Held()
    credential = Credential("kg_" + "a" * 12 + "_" + "b" * 43)
    proven = Proven(Principal("kubegate", "alice", "a" * 12, "api_key"), "token", "event")
    cache.keep(cache.key(credential), proven, asked_at=SystemClock().monotonic(), revision=1)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds // 5):
            cache.find(cache.key(credential), 30.0)
        best = min(best, (time.perf_counter() - began) / (rounds // 5))
    return {"what": "cached verification in the core", "microseconds": round(best * 1e6, 3), "goal": GOAL_CACHED_US}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements on one stack of its own."""
    with bench_stack() as stack:
        peer = _peer(stack)
        key = stack.key("viewer")
        _, key_id, secret = key.split("_")

        def unary(method: str, request: Any) -> Ask:
            return lambda: peer.unary(
                lambda channel: getattr(authn_pb2_grpc.AuthnServiceStub(channel), method), request, Deadline.after(10)
            )

        grant = authn_pb2.IssueTokenRequest(client=authn_pb2.ClientCredentials(client_id=key_id, client_secret=secret))
        token = (await unary("IssueToken", grant)()).access_token
        stream: StreamClient[Any, Any] = StreamClient(
            peer,
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).AuthenticateStream,
            authn_pb2.AuthenticateStreamRequest,
            authn_pb2.AuthenticateItem,
        )
        credentials = {"API key": key, "own JWT": token}
        requests = {
            name: authn_pb2.AuthenticateRequest(credential=authn_pb2.Credential(token=text))
            for name, text in credentials.items()
        }
        lines = []
        for concurrency in options.concurrency:
            for name, request in requests.items():
                asks: dict[str, Ask] = {
                    f"{name}, unary": unary("Authenticate", request),
                    f"{name}, stream": lambda request=request: stream.ask(request, Deadline.after(10)),  # type: ignore[misc]
                }
                for what, ask in asks.items():
                    lines.append(await measure(stack, what, ask, concurrency, options.seconds))
            lines.append(
                await measure(stack, "client credentials", unary("IssueToken", grant), concurrency, options.seconds)
            )
        await stream.close()
        await peer.close()
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "authenticate": lines,
        "cached": measure_cached(),
    }


def show(report: dict[str, Any]) -> None:
    """The report as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("WHAT", "IN FLIGHT", "PER SECOND", "P50 MS", "P99 MS", "AUTHN CPU MS", "AUDIT CPU MS"):
        table.add_column(heading, justify="left" if heading == "WHAT" else "right")
    for line in report["authenticate"]:
        cpu = line["cpu_ms"]
        cells = (line["in_flight"], line["per_second"], line["p50_ms"], line["p99_ms"], cpu["authn"], cpu["audit"])
        table.add_row(line["what"], *(str(cell) for cell in cells))
    console = Console(soft_wrap=True)
    console.print(table)
    grants = [line for line in report["authenticate"] if line["what"] == "client credentials"][-1]
    of_core = grants["per_second_of_authn_core"]
    console.print(f"client-credential grants per second of authn's core: {of_core} (goal {GOAL_GRANTS:g})")
    cached = report["cached"]
    console.print(f"cached verification in the core: {cached['microseconds']} us (goal {cached['goal']:g})")


def main() -> None:
    """Measures, prints and writes."""
    options = _options()
    report = uvloop.run(run(options))
    show(report)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
