"""Services are ended and started anew under load: no call is lost, no answer is wrong, none is unrecorded (I9.8)."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import RunningStack, eventually
from tests.fakes.under_load import Load, unrecorded

SERVICES = ("authn", "authz", "audit", "mcp-core")

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@contextmanager
def loaded(stack: RunningStack, directory: Path) -> Iterator[Load]:
    files = [Path(stack.ca_file), *(stack.home / "credentials" / name for name in ("admin.key", "viewer.key"))]
    load = Load(stack.base_url, files, directory / "answers", eventually)
    try:
        load.goes_on("before")
        yield load
    finally:
        load.stop()


def judge(stack: RunningStack, answers: list[dict[str, str]]) -> None:
    """Nothing lost, nothing wrong, and each right answer is in the record under its request id."""
    assert not [answer for answer in answers if answer["outcome"] == "lost"]
    events = [event for event in stack.events(event_type="mcp_request") if event.get("phase") != "intent"]
    recorded = {(event["request_id"], event["result"]) for event in events}
    missing = unrecorded(answers, recorded)
    assert not missing, missing[:5]
    # On a machine so busy that audit takes longer than a call may: the answer is withheld, the record follows (R20).
    for answer in answers:
        if answer["outcome"] == "withheld":
            request_id = answer["request_id"]
            eventually(lambda: stack.events(request_id=request_id, phase="outcome"), "its record follows")  # noqa: B023


def pid_of(stack: RunningStack, service: str) -> int:
    return int((stack.home / "run" / f"{service}.pid").read_text(encoding="ascii").split()[0])


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.req("I9.8")
@pytest.mark.parametrize("service", SERVICES)
def test_sigterm_under_load_loses_no_call(own_stack: RunningStack, service: str, tmp_path: Path) -> None:
    stack = own_stack
    with loaded(stack, tmp_path) as load:
        pid = pid_of(stack, service)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not runs(pid), f"{service} ends by itself")
        stack.start_service(service)
        load.goes_on(f"after {service}")
    judge(stack, load.answers())
    assert "Traceback" not in (stack.home / "run" / f"{service}.log").read_text(encoding="utf-8")


@pytest.mark.req("I9.8")
def test_a_rolling_restart_gives_no_wrong_answer(own_stack: RunningStack, tmp_path: Path) -> None:
    stack = own_stack
    with loaded(stack, tmp_path) as load:
        for service in (*SERVICES, *reversed(SERVICES)):
            stack.run("restart", service)
            load.goes_on(f"after {service}")
    judge(stack, load.answers())
    report = stack.json("audit", "verify")
    assert report["intact"] is True
    # Whatever was announced was also ended: no change is in doubt.
    events = stack.events(event_type="mcp_request", action="scale_deployment")
    intents = {event["request_id"] for event in events if event.get("phase") == "intent"}
    outcomes = {event["request_id"] for event in events if event.get("phase") == "outcome"}
    in_doubt = {answer["request_id"] for answer in load.answers() if answer["outcome"] == "right"} & (
        intents - outcomes
    )
    assert not in_doubt


@pytest.mark.req("I9.8")
def test_a_call_that_takes_long_is_answered_before_the_edge_ends(own_stack: RunningStack) -> None:
    """It waits for a condition that a Deployment never has."""
    stack = own_stack
    answers: list[httpx.Response] = []
    sent = threading.Event()
    arguments = {"kind": "Deployment", "name": "nginx", "namespace": "default", "condition": "Never"}

    def call() -> None:
        def trace(name: str, _info: object) -> None:
            if name == "http11.send_request_body.complete":
                sent.set()

        with stack.client(stack.admin) as client:
            body = {**arguments, "timeout_seconds": 8}
            answers.append(client.post("/mcp/tools/wait_for", json=body, extensions={"trace": trace}))

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    assert sent.wait(60)
    pid = pid_of(stack, "mcp-core")
    os.kill(pid, signal.SIGTERM)
    caller.join(60)
    eventually(lambda: not runs(pid), "mcp-core ends by itself")
    assert [answer.status_code for answer in answers] == [200], answers
    assert answers[0].json()["met"] is False
    recorded = stack.events(request_id=answers[0].headers["x-request-id"], event_type="mcp_request")
    assert recorded[-1]["result"] == "success"
    stack.start_service("mcp-core")
