"""Credentials over a whole stack: what ends is refused everywhere, also by who was stopped meanwhile."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.stack import RunningStack, eventually

ARGUMENTS = {"namespace": "default"}


def _pid(stack: RunningStack, service: str) -> int:
    return int((stack.home / "run" / f"{service}.pid").read_text(encoding="ascii").split()[0])


def _key(stack: RunningStack, identity: str) -> tuple[str, str]:
    made = stack.json("keys", "create", "--identity", identity, "--role", "viewer")
    return made["id"], made["key"]


@pytest.mark.req("I3.15", "R18")
def test_a_cached_proof_is_recorded_by_the_core_with_the_event_that_it_rests_on(stack: RunningStack) -> None:
    _, key = _key(stack, "cached")

    def hit() -> list[dict[str, object]]:
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 200
        recorded = stack.events(event_type="mcp_request", user="cached")
        return [event for event in recorded if event["metadata"].get("cached") == "true"]

    found = eventually(hit, "a cached proof")[0]
    authentications = stack.events(event_type="authentication", result="success", user="cached")
    assert found["metadata"]["authn_event_id"] in {event["event_id"] for event in authentications}  # type: ignore[index]


@pytest.mark.req("I3.13", "R12")
@pytest.mark.parametrize("how", ["disable", "delete"])
def test_what_is_revoked_is_refused_also_where_it_was_cached(stack: RunningStack, how: str) -> None:
    key_id, key = _key(stack, f"revoked-{how}")
    for _ in range(3):
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 200
    stack.run("keys", how, key_id)
    eventually(lambda: stack.call("list_pods", ARGUMENTS, key).status_code == 401, "refused")
    for _ in range(5):
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 401


@pytest.mark.req("I3.15", "R12")
def test_a_stopped_core_wakes_up_without_its_cache(own_stack: RunningStack) -> None:
    """SIGSTOP, then the revocation, then SIGCONT: the first request after it is refused."""
    stack = own_stack
    key_id, key = _key(stack, "asleep")
    for _ in range(3):
        assert stack.call("list_pods", ARGUMENTS, key).status_code == 200
    core = _pid(stack, "mcp-core")
    os.kill(core, signal.SIGSTOP)
    try:
        # The command starts an interpreter of its own: this takes longer than a lease does.
        stack.run("keys", "disable", key_id)
        stack.run("keys", "list")
    finally:
        os.kill(core, signal.SIGCONT)
    assert stack.call("list_pods", ARGUMENTS, key).status_code == 401
    assert stack.call("list_pods", ARGUMENTS).status_code == 200


@pytest.mark.req("I3.15", "R12", "I2.6")
def test_while_authn_is_stopped_nothing_is_answered_from_a_cache(own_stack: RunningStack) -> None:
    stack = own_stack
    for _ in range(3):
        assert stack.call("list_pods", ARGUMENTS).status_code == 200
    authn = _pid(stack, "authn")
    os.kill(authn, signal.SIGSTOP)
    try:
        eventually(lambda: stack.call("list_pods", ARGUMENTS).status_code == 503, "refused")
    finally:
        os.kill(authn, signal.SIGCONT)
    eventually(lambda: stack.call("list_pods", ARGUMENTS).status_code == 200, "healed")


def test_no_secret_lies_in_what_the_services_wrote(own_stack: RunningStack) -> None:
    stack = own_stack
    secrets = [stack.admin, stack.viewer, stack.secret("admin.password")]
    written = [*(stack.home / "run").glob("*.log"), *(stack.home / "authn").glob("authn.db*")]
    written.append(Path(str(stack.endpoints["audit_log"])))
    for path in written:
        content = path.read_bytes()
        for secret in secrets:
            assert secret.rpartition("_")[2].encode() not in content, path
