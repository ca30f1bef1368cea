"""Decisions per second: in process, and over mTLS against an authz process (`make bench-authz`).

In process: `hot` asks about principals and places that have been asked about before, `place` about namespaces
that are new each time, `principal` about principals that are new each time (a new token). Over mTLS: the server's
CPU a decision from /proc, with authn and audit played by this process, so every decision is recorded first.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authz.policy.engine import Engine
from services.authz.policy.model import Action, Circumstances, Principal
from services.authz.policy.parse import parse_policy
from services.authz.policy.scope import EVERYWHERE
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.grpc_stream import StreamClient
from tests.contract.authz_peers import Keys, Log, serve_audit, serve_authn, write_config
from tests.fakes.mesh import Mesh

SIZES = (10, 1_000, 10_000)
BATCH = 50
ROUNDS = 7
TICK = os.sysconf("SC_CLK_TCK")


def policy(roles: int) -> str:
    """A policy of that many roles, each in namespaces of its own."""
    lines = [
        f'  - {{name: r{n}, permissions: ["k8s:services:list", "k8s:pods:*"], namespaces: [n{n}, "f{n}-*"]}}'
        for n in range(roles)
    ]
    return "\n".join(["roles:", *lines, ""])


def in_process(roles: int) -> dict[str, float]:
    """Microseconds a decision, best of some rounds; and seconds to load the policy."""
    began = time.perf_counter()
    engine = Engine(parse_policy(policy(roles).encode()))
    loaded = time.perf_counter() - began
    at = Circumstances(time.time(), "192.0.2.1")
    people = [
        Principal("kubegate", f"p{n}", (f"r{n % roles}", f"r{n * 7 % roles}"), namespaces=EVERYWHERE)
        for n in range(500)
    ]

    def actions(prefix: str) -> list[Action]:
        return [
            Action("", "pods", "delete", namespace=f"{prefix}{n % roles if n % 4 else (n + 1) % roles}", name="web-1")
            for n in range(len(people))
        ]

    hot = [(person, action) for _ in range(20) for person, action in zip(people, actions("n"), strict=True)]
    result = {"load_seconds": round(loaded, 3), "hot_us": _best(engine, hot, at)}
    fresh = iter(range(10**9))
    places = [
        [
            (person, Action("", "pods", "delete", namespace=f"f{n % roles}-{next(fresh)}", name="w"))
            for n, person in enumerate(people)
        ]
        for _ in range(ROUNDS)
    ]
    result["new_place_us"] = min(_seconds(engine, work, at) for work in places)
    result["new_principal_us"] = min(_seconds(Engine(engine.policy), hot[:500], at) for _ in range(3))
    return result


def _best(engine: Engine, work: list[tuple[Principal, Action]], at: Circumstances) -> float:
    _seconds(engine, work, at)
    return min(_seconds(engine, work, at) for _ in range(ROUNDS))


def _seconds(engine: Engine, work: list[tuple[Principal, Action]], at: Circumstances) -> float:
    gc.collect()
    gc.disable()
    decide = engine.decide
    began = time.perf_counter()
    for principal, action in work:
        decide(principal, action, at)
    taken = time.perf_counter() - began
    gc.enable()
    return round(taken / len(work) * 1e6, 3)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def over_mtls(roles: int, seconds: float, directory: Path) -> list[dict[str, Any]]:
    """Runs an authz process and asks it in each way."""
    mesh, keys, log = Mesh(directory / "mesh"), Keys(), Log()
    authn, authn_port = await serve_authn(mesh, keys)
    audit, audit_port = await serve_audit(mesh, log)
    home = directory / "authz"
    config = write_config(mesh, home, policy(roles), authn=authn_port, audit=audit_port)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.authz", "--config", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    peer: Peer | None = None
    try:
        while not (home / "address").exists():
            if process.returncode is not None:
                raise RuntimeError("authz ended while starting")
            await asyncio.sleep(0.05)
        peer = mesh.peer("authz", int((home / "address").read_text().strip().rpartition(":")[2]), "service/mcp-core")
        stream: StreamClient[authz_pb2.CheckRequest, authz_pb2.CheckResponse] = StreamClient(
            peer,
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).CheckStream,
            authz_pb2.CheckStreamRequest,
            authz_pb2.CheckItem,
        )
        peer_ = peer
        tokens = [keys.token(roles=[f"r{n}", f"r{n * 7 % roles}"], subject=f"p{n}") for n in range(10)]

        def action(number: int) -> identity_pb2.Action:
            return identity_pb2.Action(
                cluster="default", verb="list", resource="pods", namespace=f"n{number % 10}", tool="list_pods"
            )

        def single(number: int) -> authz_pb2.CheckRequest:
            return authz_pb2.CheckRequest(principal_token=tokens[number % 10], action=action(number), request_id="r")

        async def unary(number: int) -> None:
            await peer_.unary(
                lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check, single(number), Deadline.after(10)
            )

        async def streamed(number: int) -> None:
            await stream.ask(single(number), Deadline.after(10))

        batches: StreamClient[authz_pb2.BatchCheckRequest, authz_pb2.BatchCheckResponse] = StreamClient(
            peer,
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).BatchCheckStream,
            authz_pb2.BatchCheckStreamRequest,
            authz_pb2.BatchCheckItem,
        )
        batch = [action(number) for number in range(BATCH)]

        async def batches_streamed(number: int) -> None:
            request = authz_pb2.BatchCheckRequest(principal_token=tokens[number % 10], actions=batch, request_id="r")
            await batches.ask(request, Deadline.after(10))

        async def batched(number: int) -> None:
            request = authz_pb2.BatchCheckRequest(principal_token=tokens[number % 10], actions=batch, request_id="r")
            await peer_.unary(
                lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).BatchCheck, request, Deadline.after(10)
            )

        results = []
        for name, ask, each in (
            ("Check", unary, 1),
            ("CheckStream", streamed, 1),
            ("BatchCheck", batched, BATCH),
            ("BatchCheckStream", batches_streamed, BATCH),
        ):
            for flight in (1, 32):
                await _load(ask, flight, 0.5)
                log.appended.clear()
                used = cpu_seconds(process.pid)
                count, taken = await _load(ask, flight, seconds)
                used = cpu_seconds(process.pid) - used
                results.append(
                    {
                        "roles": roles,
                        "method": name,
                        "per_call": each,
                        "in_flight": flight,
                        "decisions_per_second": round(count * each / taken),
                        "server_cpu_us_per_decision": round(used / (count * each) * 1e6, 1),
                        "records_per_call": round(len(log.appended) / count, 2),
                    }
                )
        await stream.close()
        await batches.close()
        return results
    finally:
        process.terminate()
        await process.wait()
        if peer is not None:
            await peer.close()
        for server in (authn, audit):
            await server.stop(0)


async def _load(ask: Callable[[int], Awaitable[None]], flight: int, seconds: float) -> tuple[int, float]:
    """Calls made in that time by that many askers, and the time it took."""
    count = 0
    began = time.perf_counter()

    async def asker() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            count += 1
            await ask(count)

    await asyncio.gather(*(asker() for _ in range(flight)))
    return count, time.perf_counter() - began


def main() -> None:
    """Prints a table and writes bench/out/authz.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement over mTLS")
    parser.add_argument("--roles", type=int, nargs="+", default=SIZES, help="sizes of the policy")
    parser.add_argument("--out", type=Path, default=Path("bench/out/authz.json"))
    args = parser.parse_args()
    engine = {roles: in_process(roles) for roles in args.roles}
    print("in process, microseconds a decision")
    print(f"{'roles':>7} {'hot':>8} {'new place':>10} {'new principal':>14} {'load s':>8}")
    for roles, row in engine.items():
        print(
            f"{roles:>7} {row['hot_us']:>8} {row['new_place_us']:>10} {row['new_principal_us']:>14} "
            f"{row['load_seconds']:>8}"
        )
    rows: list[dict[str, Any]] = []
    print("\nover mTLS, every decision recorded")
    print(f"{'roles':>7} {'method':>17} {'a call':>7} {'in flight':>10} {'decisions/s':>12} {'server CPU us':>14}")
    for roles in args.roles:
        with tempfile.TemporaryDirectory() as directory:
            for row in _run(over_mtls(roles, args.seconds, Path(directory))):
                rows.append(row)
                print(
                    f"{row['roles']:>7} {row['method']:>17} {row['per_call']:>7} {row['in_flight']:>10} "
                    f"{row['decisions_per_second']:>12} {row['server_cpu_us_per_decision']:>14}"
                )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"in_process": engine, "over_mtls": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {args.out}")


def _run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


if __name__ == "__main__":
    main()
