"""Lifelike container logs, made up on demand and always the same for the same moment of the same run."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from services.dev_cluster.clock import stamp_nano
from services.dev_cluster.kinds import Object
from services.dev_cluster.pods import Run

Line = tuple[float, str]
Maker = Callable[[random.Random, float], str]

# How much of a long run is kept, as a node keeps only the last files of a rotated log.
KEPT_LINES = 2_000

_PATHS = (
    "/",
    "/healthz",
    "/api/v1/orders",
    "/api/v1/orders/4711",
    "/api/v1/customers?page=2",
    "/assets/app.js",
)
_AGENTS = ("kube-probe/1.36", "Mozilla/5.0 (X11; Linux x86_64)", "curl/8.9.1", "python-httpx/0.28.1")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _nginx(chance: random.Random, at: float) -> str:
    when = datetime.fromtimestamp(at, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    status = chance.choice((200, 200, 200, 200, 200, 304, 301, 404, 499))
    address = f"10.244.{chance.randrange(3)}.{chance.randrange(2, 250)}"
    request = f'"GET {chance.choice(_PATHS)} HTTP/1.1"'
    return f'{address} - - [{when}] {request} {status} {chance.randrange(150, 9000)} "-" "{chance.choice(_AGENTS)}" "-"'


def _api(chance: random.Random, at: float) -> str:
    trace = f"{chance.getrandbits(64):016x}"
    took = chance.randrange(2, 180)
    if chance.random() < 0.06:
        return f"{_iso(at)} WARN  request slow trace={trace} path={chance.choice(_PATHS)} took_ms={took + 900}"
    if chance.random() < 0.03:
        return f"{_iso(at)} ERROR upstream refused the connection trace={trace} upstream=redis:6379 attempt=1"
    return f"{_iso(at)} INFO  request done trace={trace} path={chance.choice(_PATHS)} status=200 took_ms={took}"


def _redis(chance: random.Random, at: float) -> str:
    when = datetime.fromtimestamp(at, UTC).strftime("%d %b %Y %H:%M:%S.%f")[:-3]
    said = chance.choice(
        ("100 changes in 300 seconds. Saving...", "Background saving started by pid 214", "DB saved on disk",
         "Background saving terminated with success", "Fork CoW for RDB: current 1 MB, peak 1 MB, average 1 MB")
    )  # fmt: skip
    return f"1:M {when} * {said}"


def _postgres(chance: random.Random, at: float) -> str:
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    written = chance.randrange(2, 90)
    said = chance.choice(
        ("LOG:  checkpoint starting: time", f"LOG:  checkpoint complete: wrote {written} buffers (0.3%)",
         f"LOG:  duration: {chance.randrange(1000, 4000)}.18 ms  statement: REFRESH MATERIALIZED VIEW daily_orders",
         "ERROR:  canceling statement due to statement timeout")
    )  # fmt: skip
    return f"{when} [{chance.randrange(30, 90)}] {said}"


def _generic(chance: random.Random, at: float) -> str:
    said = chance.choice(("heartbeat ok", "cache refreshed", "processed batch", "no work, sleeping"))
    return f'{_iso(at)} level=info msg="{said}" items={chance.randrange(40)}'


# By a word of the image name: opening lines, the steady stream, and seconds between its lines.
_PROFILES: dict[str, tuple[tuple[str, ...], Maker, float]] = {
    "nginx": (
        ("/docker-entrypoint.sh: Configuration complete; ready for start up",
         'nginx: using the "epoll" event method', "nginx/1.29.1", "start worker processes"),
        _nginx, 6.0,
    ),
    "api": (("INFO  configuration loaded from /etc/app/config.yaml", "INFO  listening on :8080"), _api, 4.0),
    "redis": (("1:C * Redis is starting", "1:M * Ready to accept connections tcp"), _redis, 20.0),
    "postgres": (("LOG:  listening on IPv4 address \"0.0.0.0\", port 5432",
                  "LOG:  database system is ready to accept connections"), _postgres, 15.0),
}  # fmt: skip

_WORKER_START = (
    "INFO  worker 2.14.0 starting, queue=orders concurrency=4",
    "INFO  connecting to amqp://orders@rabbitmq.development.svc:5672/orders",
    "INFO  connected, waiting for messages",
    "INFO  message 8c1f received, type=order.created",
    "WARN  config key 'payments.endpoint' is not set, falling back to the default",
)
_WORKER_END = (
    "ERROR unhandled exception in handler order.created",
    "Traceback (most recent call last):",
    '  File "/app/worker/main.py", line 88, in run',
    "    self.handle(message)",
    '  File "/app/worker/handlers/orders.py", line 41, in handle',
    "    gateway = PaymentGateway(os.environ['PAYMENTS_ENDPOINT'])",
    "KeyError: 'PAYMENTS_ENDPOINT'",
    "FATAL worker exits with code 1",
)


def _crashing(run: Run) -> Iterator[Line]:
    for i, text in enumerate(_WORKER_START):
        yield run.start + i * 0.05, f"{_iso(run.start + i * 0.05)} {text}"
    if run.end is not None:
        for i, text in enumerate(_WORKER_END):
            yield run.end + i * 0.0001, f"{_iso(run.end)} {text}" if i in (0, len(_WORKER_END) - 1) else text


def lines(pod: Object, container: Object, run: Run, until: float, *, crashing: bool) -> Iterator[Line]:
    """The lines that a run has written up to a moment, oldest first."""
    if crashing:
        yield from (line for line in _crashing(run) if line[0] <= until)
        return
    image = container["image"].rpartition("/")[2]
    profile = next((value for word, value in _PROFILES.items() if word in image), ((), _generic, 10.0))
    opening, make, pause = profile
    until = min(until, run.end or until)
    for i, text in enumerate(opening):
        at = run.start + i * 0.02
        if at <= until:
            yield at, f"{_iso(at)} {text}" if text[0].isupper() else text
    count = int((until - run.start) / pause)
    seed = hashlib.sha256(f"{pod['metadata']['uid']}/{container['name']}/{run.start}".encode()).hexdigest()
    # The span that has begun may have its line already: whoever follows would never see one that shows up late.
    for i in range(max(1, count - KEPT_LINES), count + 2):
        chance = random.Random(f"{seed}/{i}")  # noqa: S311 - made-up log lines
        at = run.start + i * pause + chance.random() * pause * 0.9 - pause
        if run.start < at <= until:
            yield at, make(chance, at)


def render(line: Line, *, timestamps: bool) -> str:
    """One line as the log endpoint sends it."""
    at, text = line
    return f"{stamp_nano(at)} {text}\n" if timestamps else f"{text}\n"
