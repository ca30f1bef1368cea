"""`make bench-audit`: durable events a second over mTLS, with 10^4 and 10^6 events stored, and queries over them.

A platform service (this process) streams events with a principal token to the audit service of a whole stack:
verified user, R22, group commit, fsync, Merkle tree, signed root and mirror, as in production. Messages are
encoded before the clock starts; answers are decoded and counted, an event counts when it is acknowledged. The
caller's CPU is on the same two cores and is reported as "caller".
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench.run import OUT
from bench.run import table as table_
from bench.stack import BenchStack, bench_stack
from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.cli.pki import Authority
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.config import PeerAddress, TlsFiles
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.ids import uuid7
from services.common.tls import server_name

USERS = 1000
METHOD = "/kubegate.audit.v1.AuditService/AppendStream"
CALLER = "platform/bench"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-audit", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64, 256], help="events a message")
    parser.add_argument("--stored", type=int, nargs="+", default=[10_000, 1_000_000], help="events stored before")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--window", type=int, default=16, help="messages in flight")
    parser.add_argument("--out", type=Path, default=OUT / "audit.json")
    return parser.parse_args()


@dataclass(slots=True)
class Sample:
    """One measurement: seconds, acknowledged events, refused ones, and the latency of each message in seconds."""

    seconds: float
    events: int
    refused: int
    latencies: list[float]

    @property
    def per_second(self) -> float:
        """Acknowledged events a second."""
        return self.events / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency of a message, from its writing to its last acknowledgement."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000 if ordered else 0.0


class Caller:
    """A platform service with a certificate of the stack's mesh, and an operator beside it."""

    def __init__(self, stack: BenchStack) -> None:
        endpoints = json.loads((stack.home / "endpoints.json").read_text(encoding="utf-8"))
        self._services: dict[str, str] = endpoints["services"]
        self._key = stack.key("admin")
        authority = Authority.open(stack.home / "ca" / "mesh", "bench")
        directory = stack.home / "bench"
        authority.mesh(CALLER).write(directory, authority.certificate)
        self._tls = {CALLER: _files(directory), "operator/admin": _files(stack.home / "operator")}
        self._peers: dict[tuple[str, str], Peer] = {}
        self._users = 0

    def peer(self, name: str, as_: str = CALLER) -> Peer:
        """A service, called as somebody."""
        key = name, as_
        if key not in self._peers:
            address = PeerAddress(address=self._services[name], server_name=server_name(name))
            self._peers[key] = Peer(name, address, self._tls[as_])
        return self._peers[key]

    async def token(self, as_: str = CALLER) -> str:
        """A principal token for 60 seconds."""
        response: authn_pb2.AuthenticateResponse = await self.peer("authn", as_).unary(
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).Authenticate,
            authn_pb2.AuthenticateRequest(credential=authn_pb2.Credential(token=self._key)),
            Deadline.after(10),
        )
        return response.principal_token

    def messages(self, token: str, size: int, first: int) -> Iterator[bytes]:
        """Messages of so many events, their items numbered on."""
        stamp = audit_pb2.Event()
        stamp.timestamp.GetCurrentTime()
        number = first
        while True:
            message = audit_pb2.AppendStreamRequest()
            for _ in range(size):
                item = message.items.add()
                item.header.id, item.header.timeout_ms = number, 30_000
                request = item.request
                # Filling up is done for asserted users, so that there are many; what is measured is verified.
                request.principal_token = token
                event = request.event
                event.user = f"user-{number % USERS}"
                event.event_id = uuid7()
                event.timestamp.CopyFrom(stamp.timestamp)
                event.event_type = audit_pb2.EVENT_TYPE_EXTERNAL
                event.action, event.resource, event.namespace = "deploy", f"deployments/app-{number % 97}", "default"
                event.result = audit_pb2.RESULT_SUCCESS
                event.metadata["tool"], event.metadata["number"] = "bench", str(number)
                event.duration_ms = 1.25
                event.request_id = f"req-{number}"
                number += 1
            yield message.SerializeToString()

    async def append(self, size: int, window: int, *, seconds: float = 0, events: int = 0) -> Sample:
        """Streams messages of so many events, for so long or until so many are acknowledged."""
        token = "" if events else await self.token()
        ahead = max((min(events, 100_000) if events else int(seconds * 40_000)) // size, 1)
        more = self.messages(token, size, 1)
        prepared = deque(next(more) for _ in range(ahead if size > 1 else ahead // 8))
        call: Any = (
            self.peer("audit")
            .channel()
            .stream_stream(
                METHOD, request_serializer=None, response_deserializer=audit_pb2.AppendStreamResponse.FromString
            )()
        )
        sample = Sample(0.0, 0, 0, [])
        await self._stream(call, prepared, more, size, window, seconds, events, sample)
        return sample

    async def _stream(
        self, call: Any, prepared: deque[bytes], more: Iterator[bytes], size: int, window: int,
        seconds: float, events: int, sample: Sample,
    ) -> None:  # fmt: skip
        room = asyncio.Semaphore(window)
        sent: dict[int, float] = {}
        open_items: dict[int, int] = {}
        began = time.perf_counter()

        async def write() -> None:
            number = 0
            while (time.perf_counter() - began < seconds) if seconds else (number * size < events):
                await room.acquire()
                sent[number], open_items[number] = time.perf_counter(), size
                await call.write(prepared.popleft() if prepared else next(more))
                number += 1
            await call.done_writing()

        writer = asyncio.create_task(write())
        async for response in call:
            for answer in response.answers:
                sample.events += answer.HasField("response")
                sample.refused += answer.HasField("error")
                message = (answer.id - 1) // size
                open_items[message] -= 1
                if not open_items[message]:
                    sample.latencies.append(time.perf_counter() - sent.pop(message))
                    room.release()
        await writer
        sample.seconds = time.perf_counter() - began

    async def query(self, count: int, stored: int) -> list[float]:
        """Seconds that queries take, each for the newest hundred events of one of ``USERS`` users."""
        took: list[float] = []
        metadata = ((PRINCIPAL_TOKEN_METADATA, await self.token("operator/admin")),)
        stub = audit_pb2_grpc.AuditServiceStub(self.peer("audit", "operator/admin").channel())
        for number in range(count):
            request = audit_pb2.QueryRequest(limit=100, descending=True)
            request.filter.user = f"user-{1 + number % min(USERS - 1, stored)}"
            began = time.perf_counter()
            found = 0
            async for response in stub.Query(request, metadata=metadata, timeout=30):
                found += len(response.records)
            took.append(time.perf_counter() - began)
            assert found
        return took

    async def close(self) -> None:
        """Closes every connection."""
        for peer in self._peers.values():
            await peer.close()


def _files(directory: Path) -> TlsFiles:
    return TlsFiles(cert_file=directory / "tls.crt", key_file=directory / "tls.key", ca_file=directory / "ca.crt")


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _measure(
    stack: BenchStack, caller: Caller, stored: int, batch: int, options: argparse.Namespace
) -> dict[str, Any]:
    cpu, own = stack.cpu()["audit"], _own_cpu()
    window = options.window if batch > 1 else options.window * 16
    sample = await caller.append(batch, window, seconds=options.seconds)
    events = max(sample.events, 1)
    return {
        "stored": stored,
        "events_per_message": batch,
        "messages_in_flight": window,
        "events": sample.events,
        "refused": sample.refused,
        "events_per_second": round(sample.per_second),
        "ack_p50_ms": round(sample.percentile_ms(50), 2),
        "ack_p99_ms": round(sample.percentile_ms(99), 2),
        "audit_cpu_us_per_event": round((stack.cpu()["audit"] - cpu) / events * 1e6, 1),
        "caller_cpu_us_per_event": round((_own_cpu() - own) / events * 1e6, 1),
    }


async def bench(stack: BenchStack, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, as JSON."""
    caller = Caller(stack)
    runs: list[dict[str, Any]] = []
    total = 0
    for stored in sorted(options.stored):
        while total < stored:
            total += (await caller.append(256, options.window, events=min(stored - total, 200_000))).events
        for batch in options.batch:
            run = await _measure(stack, caller, stored, batch, options)
            total += run["events"]
            runs.append(run)
            print(json.dumps(run), flush=True)
    took = sorted(await caller.query(options.queries, min(options.stored)))
    await caller.close()
    largest = max(options.batch)
    rates = [run["events_per_second"] for run in runs if run["events_per_message"] == largest]
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "events_stored": total,
        "runs": runs,
        "rate_with_most_stored": round(rates[-1] / rates[0], 2) if rates[0] else 0,
        "query_by_user": {
            "p50_ms": round(took[len(took) // 2] * 1000, 2),
            "p99_ms": round(took[min(int(len(took) * 0.99), len(took) - 1)] * 1000, 2),
        },
        "store_mib": round((stack.home / "audit" / "audit.db").stat().st_size / 2**20, 1),
    }


def show(result: dict[str, Any]) -> None:
    """Prints the tables."""
    table = table_(
        "durable, Merkle-committed events over mTLS", "stored", "events/message", "events/s", "ack p50 ms",
        "ack p99 ms",
        "audit CPU us", "caller CPU us", "refused",
    )  # fmt: skip
    for run in result["runs"]:
        table.add_row(
            f"{run['stored']:,}", str(run["events_per_message"]), f"{run['events_per_second']:,}",
            *(str(run[key]) for key in ("ack_p50_ms", "ack_p99_ms", "audit_cpu_us_per_event", "caller_cpu_us_per_event",
                                        "refused")),
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table, "")
    query = result["query_by_user"]
    console.print(
        f"query by user over {result['events_stored']:,} events: p50 {query['p50_ms']} ms, p99 {query['p99_ms']} ms\n"
        f"append rate with most stored, against least: {result['rate_with_most_stored']}; "
        f"store {result['store_mib']} MiB"
    )


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
