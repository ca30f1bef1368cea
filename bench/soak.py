"""`make soak`: the load of `make bench` for long, with memory watched, and the record verified at the end."""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.load import closed_loop
from bench.run import OUT, scale_to
from bench.stack import BenchStack, bench_stack


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two lines")
    parser.add_argument("--out", type=Path, default=OUT / "soak.json")
    return parser.parse_args()


async def soak(stack: BenchStack, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One line for every interval: rate, latency and memory."""
    request = await scale_to(stack, 20)
    lines: list[dict[str, Any]] = []
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < options.seconds:
        length = min(options.every, options.seconds - elapsed)
        sample = await closed_loop(stack.port, stack.tls, request, options.concurrency, length)
        line = {
            "at_seconds": round(time.monotonic() - began),
            "requests_per_second": round(sample.per_second, 1),
            "p99_ms": round(sample.percentile_ms(99), 1),
            "events": await asyncio.to_thread(stack.events),
            "rss_mib": {name: round(size / 2**20, 1) for name, size in stack.rss().items()},
        }
        lines.append(line)
        print(json.dumps(line), flush=True)
    return lines


def main() -> None:
    """Soaks, verifies, and writes the JSON file."""
    options = _options()
    with bench_stack() as stack:
        lines = uvloop.run(soak(stack, options))
        verified = stack.run("audit", "verify")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"audit_verify": verified.returncode, "lines": lines}, indent=2) + "\n")
    print(f"{verified.stdout.strip()}\nwritten to {options.out}")
    if verified.returncode != 0:
        raise SystemExit(f"the record does not verify: {verified.stderr}")


if __name__ == "__main__":
    main()
