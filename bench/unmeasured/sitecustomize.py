"""Loaded by the processes of one stack of `bench.telemetry`: counters and histograms that count nothing."""

from prometheus_client import Counter, Gauge, Histogram


def _nothing(*_: object, **__: object) -> None:
    pass


Counter.inc = Gauge.set = Gauge.inc = Histogram.observe = _nothing  # type: ignore[method-assign]
