"""A closed loop of callers: each sends its next request when the last was answered."""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.client import BadAnswer, Connection


@dataclass(frozen=True)
class Sample:
    """What one run gave. Latencies are sorted, in seconds."""

    concurrency: int
    seconds: float
    latencies: tuple[float, ...]

    @property
    def requests(self) -> int:
        """Requests answered."""
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency in milliseconds that `percent` of the requests did not exceed (nearest rank)."""
        if not self.latencies:
            return float("nan")
        rank = max(0, -(-len(self.latencies) * percent // 100) - 1)
        return self.latencies[int(rank)] * 1000


def per_request_ms(before: Mapping[str, float], after: Mapping[str, float], requests: int) -> dict[str, float]:
    """CPU milliseconds a request, by service."""
    return {name: (after[name] - before[name]) * 1000 / max(requests, 1) for name in before}


def succeeded(status: int, body: bytes) -> bool:
    """Whether an answer is the success of a request, over REST or MCP."""
    return status == 200 and b'"isError":true' not in body and b'"error"' not in body


async def closed_loop(
    port: int,
    tls: ssl.SSLContext | None,
    request: bytes,
    concurrency: int,
    seconds: float,
    counts: Callable[[int, bytes], bool] = succeeded,
) -> Sample:
    """Keeps `concurrency` requests in flight for `seconds`. `counts`: whether status and body are what is measured.

    Raises:
        BadAnswer: an answer was not what is measured.
    """
    connections = [await Connection.open(port, tls) for _ in range(concurrency)]
    began = time.perf_counter()
    end = began + seconds

    async def caller(connection: Connection) -> list[float]:
        taken: list[float] = []
        sent = time.perf_counter()
        while sent < end:
            status, body = await connection.exchange(request)
            now = time.perf_counter()
            if not counts(status, body):
                raise BadAnswer(f"HTTP {status}: {body[:400].decode(errors='replace')}")
            taken.append(now - sent)
            sent = now
        return taken

    try:
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(caller(connection)) for connection in connections]
    finally:
        for connection in connections:
            await connection.close()
    elapsed = time.perf_counter() - began
    return Sample(concurrency, elapsed, tuple(sorted(took for each in callers for took in each.result())))
