"""`make bench-telemetry`: what metrics and traces cost, as CPU a request with them and without (I9.15).

Stacks run side by side and are asked in turns, so that whatever else the machine does falls on all of them:
`nothing` counts nothing (its counters are replaced by empty functions), `metrics` is what `kubegate up` starts, scraped
every five seconds, `sampled` also records one trace in ten, and `traced` every trace, sent to a collector here.
"""

import argparse
import asyncio
import json
import os
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import closed_loop, per_request_ms
from bench.run import OUT, scale_to
from bench.stack import BenchStack, started
from tests.fakes.otlp_receiver import OtlpReceiver

SCRAPE_SECONDS = 5.0
STACKS = ("metrics", "sampled", "traced")
OURS = ("authn", "authz", "audit", "mcp-core")


@contextmanager
def _stacks(receiver: OtlpReceiver, names: Sequence[str]) -> Iterator[dict[str, BenchStack]]:
    options: dict[str, tuple[str, ...]] = {
        "nothing": (),
        "metrics": (),
        "sampled": ("--otlp", receiver.address, "--sample", "0.1"),
        "traced": ("--otlp", receiver.address, "--sample", "1"),
    }
    with ExitStack() as closing:
        made: dict[str, BenchStack] = {}
        for name in ("nothing", *names):
            args = options[name]
            if name == "nothing":
                os.environ["PYTHONPATH"] = str(Path(__file__).parent / "unmeasured")
            made[name] = closing.enter_context(started(*args))
            os.environ.pop("PYTHONPATH", None)
        yield made


def _read(opener: urllib.request.OpenerDirector, url: str) -> None:
    with opener.open(url, timeout=10) as page:
        page.read()


async def _scrape(stack: BenchStack) -> None:
    endpoints: dict[str, Any] = json.loads((stack.home / "endpoints.json").read_text(encoding="utf-8"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        for url in endpoints["metrics"].values():
            await asyncio.to_thread(_read, opener, url)
        await asyncio.sleep(SCRAPE_SECONDS)


async def _measure(stacks: dict[str, BenchStack], rounds: int, seconds: float, concurrency: int) -> dict[str, Any]:
    requests = {name: await scale_to(stack, 20) for name, stack in stacks.items()}
    scraping = [asyncio.create_task(_scrape(stack)) for name, stack in stacks.items() if name != "nothing"]
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in stacks}
    for number in range(rounds + 1):
        for name, stack in stacks.items():
            before = stack.cpu()
            done = await closed_loop(stack.port, stack.tls, requests[name], concurrency, seconds)
            # Spans are sent and pages made between the turns as well; they belong to the requests.
            await asyncio.sleep(0.5)
            if number:
                samples[name].append(per_request_ms(before, stack.cpu(), done.requests))
    for task in scraping:
        task.cancel()
    await asyncio.gather(*scraping, return_exceptions=True)
    cpu = {
        name: {service: round(median(each[service] for each in of_one), 3) for service in OURS}
        for name, of_one in samples.items()
    }
    whole = {name: sum(of_one.values()) for name, of_one in cpu.items()}
    return {
        "concurrency": concurrency,
        "rounds": rounds,
        "seconds": seconds,
        "cpu_ms_per_request": {name: {**cpu[name], "all": round(whole[name], 3)} for name in cpu},
        # Turn by turn: what the machine did meanwhile, it did to both.
        "overhead_percent": {
            name: round(100 * (median(map(_ratio, of_one, samples["nothing"])) - 1), 1)
            for name, of_one in samples.items()
            if name != "nothing"
        },
    }


def _ratio(one: dict[str, float], other: dict[str, float]) -> float:
    return sum(one[service] for service in OURS) / sum(other[service] for service in OURS)


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"CPU ms a request, c = {result['concurrency']}, median of {result['rounds']} turns")
    for column in ("stack", *OURS, "all", "overhead"):
        table.add_column(column, justify="left" if column == "stack" else "right")
    for name, cpu in result["cpu_ms_per_request"].items():
        overhead = result["overhead_percent"].get(name)
        table.add_row(name, *(f"{cpu[key]:.3f}" for key in (*OURS, "all")), "" if overhead is None else f"{overhead} %")
    return table


def main() -> None:
    """Measures once and prints."""
    parser = argparse.ArgumentParser(prog="bench-telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each turn")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--out", type=Path, default=OUT / "telemetry.json")
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=STACKS, help="beside `nothing`")
    options = parser.parse_args()
    receiver = OtlpReceiver()
    receiver.start()
    try:
        with _stacks(receiver, options.stacks) as stacks:
            result = uvloop.run(_measure(stacks, options.rounds, options.seconds, options.concurrency))
    finally:
        receiver.stop()
    result["spans_received"] = len(receiver.all())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(_table(result))


if __name__ == "__main__":
    main()
