"""Services are killed at random under load: what was answered is on the record, and nothing else happened."""

import random
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import RunningStack, eventually

ROUNDS = 12
CLIENTS = 4
SERVICES = ("audit", "authn", "authz", "mcp-core")


class Load(threading.Thread):
    """Scales nginx back and forth and remembers what it was told."""

    def __init__(self, stack: RunningStack, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._stopped = stop
        self.succeeded: list[str] = []
        self.statuses: set[int] = set()

    def run(self) -> None:
        replicas = 0
        while not self._stopped.is_set():
            replicas = 3 - replicas % 3
            arguments = {"name": "nginx", "namespace": "default", "replicas": replicas}
            try:
                response = self._stack.call("scale_deployment", arguments)
            except httpx.HTTPError:
                continue
            self.statuses.add(response.status_code)
            if response.status_code == 200:
                self.succeeded.append(response.headers["X-Request-Id"])


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.req("I2.5", "I2.6", "R18")
def test_what_was_answered_is_recorded_however_often_services_crash(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    stack = RunningStack.up(tmp_path / "home")
    try:
        stop = threading.Event()
        load = [Load(stack, stop) for _ in range(CLIENTS)]
        for thread in load:
            thread.start()
        for _ in range(ROUNDS):
            done = sum(len(thread.succeeded) for thread in load)
            eventually(lambda done=done: sum(len(t.succeeded) for t in load) > done + 2, "work goes on")  # type: ignore[misc]
            service = dice.choice(SERVICES)
            stack.stop_service(service)
            stack.start_service(service)
        stop.set()
        for thread in load:
            thread.join(60)
        succeeded = {request_id for thread in load for request_id in thread.succeeded}
        outcomes = {
            event["request_id"] for event in stack.events(event_type="mcp_request", phase="outcome", result="success")
        }
        assert succeeded
        assert not succeeded - outcomes, "answered with 200 and not on the record"
        assert set().union(*(thread.statuses for thread in load)) <= {200, 500, 503}
        assert stack.run("audit", "verify").returncode == 0
    finally:
        stack.down()
