"""An auditor at a whole stack: what they can read, what is handed to them; and the bench."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.short_bench import ROOT, short_bench
from tests.e2e.stack import KUBEGATE, RunningStack, eventually


def with_key(key: str, directory: Path) -> dict[str, str]:
    """The environment of a command that somebody else runs."""
    file = directory / "key"
    file.write_text(key)
    file.chmod(0o600)
    return {**os.environ, "KUBEGATE_KEY_FILE": str(file)}


def as_(key: str, directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`kubegate ARGS` with somebody else's key."""
    return subprocess.run(
        [KUBEGATE, *args], capture_output=True, text=True, env=with_key(key, directory), timeout=60, check=False
    )


@pytest.mark.req("I4.4", "I4.1", "R15")
def test_an_auditor_reads_everything_and_can_do_nothing_else(stack: RunningStack, tmp_path: Path) -> None:
    stack.call("scale_deployment", {"name": "nginx", "namespace": "default", "replicas": 3}, stack.viewer)
    key = stack.new_key("edith", "--role", "auditor", "--all-namespaces")
    home = ("--home", str(stack.home))
    found = as_(key, tmp_path, "audit", "query", *home, "--field", "decision.allowed=false", "--json", "--limit", "5")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)
    whole: list[dict[str, Any]] = json.loads(as_(key, tmp_path, "audit", "query", *home, "--json").stdout)
    schema = json.loads((ROOT / "configs" / "audit-event.schema.json").read_text())
    for event in whole:
        jsonschema.validate(event, schema)
    assert as_(key, tmp_path, "audit", "stats", *home).returncode == 0
    for command in (("keys", "list"), ("compliance", "log", "--framework", "X", "--control", "Y", "--action", "z")):
        assert as_(key, tmp_path, *command, *home).returncode == 1
    assert stack.call("list_pods", {"namespace": "default"}, key).status_code == 403
    reads = stack.events(user="edith", event_type="admin", action="audit.Stats")
    assert [event["result"] for event in reads] == ["success"]


@pytest.mark.req("R19", "I4.4")
def test_a_tail_ends_when_the_role_that_allowed_it_is_taken_away(stack: RunningStack, tmp_path: Path) -> None:
    key = stack.new_key("erin", "--permission", "kubegate:elevations:request", "--all-namespaces")
    tail = [KUBEGATE, "audit", "tail", "--type", "mcp_request", "--json", "--home", str(stack.home)]
    environment = with_key(key, tmp_path)
    assert subprocess.run(tail, env=environment, capture_output=True, timeout=60, check=False).returncode == 1
    options = ("--role", "auditor", "--all-namespaces", "--for", "10m", "--why", "audit 7")
    asked = stack.json("elevation", "request", *options, "--key-file", str(tmp_path / "key"))
    stack.run("elevation", "approve", asked["id"])
    pipe = subprocess.PIPE
    follower = subprocess.Popen([*tail, "-n", "0"], env=environment, text=True, stdout=pipe, stderr=pipe)
    try:
        eventually(lambda: stack.events(user="erin", action="audit.Tail", result="success"), "the tail begins")
        assert stack.call("list_pods", {"namespace": "default"}, stack.viewer).status_code == 200
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["event_type"] == "mcp_request"
        stack.run("elevation", "revoke", asked["id"])
        rest, error = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert (follower.returncode, rest) == (1, "")
    assert "denied" in error


@pytest.mark.req("I4.5")
def test_the_evidence_pack_holds_what_happened_and_says_that_the_record_is_whole(
    stack: RunningStack, tmp_path: Path
) -> None:
    stack.call("scale_deployment", {"name": "nginx", "namespace": "default", "replicas": 3}, stack.viewer)
    stack.result("scale_deployment", name="nginx", namespace="default", replicas=3)
    details = ("--framework", "SOC2", "--control", "CC6.3", "--action", "access-review", "--detail", "ticket=SEC-1")
    assert stack.json("compliance", "log", *details)["sequence"] > 0
    made = stack.json("compliance", "soc2", "--from", "1d", "--out", str(tmp_path))
    assert made["intact"]
    file, page = map(Path, made["files"])
    pack = json.loads(file.read_text())
    sections = pack["sections"]
    assert {holder["identity"] for holder in sections["access_review"]["holders"]} >= {"admin", "viewer"}
    assert "scale_deployment" in {event["action"] for event in sections["privileged_actions"]["events"]}
    assert "viewer" in sections["denials"]["by_user"]
    assert sections["changes"]["count"] >= 1
    assert sections["attestations"]["events"][-1]["details"]["ticket"] == "SEC-1"
    assert sections["completeness"]["intact"]
    assert re.fullmatch("[0-9A-Za-z+/]{43}=", sections["completeness"]["root"]), "as in a checkpoint"
    assert "whole and unaltered" in page.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert stack.run("compliance", "soc2", "--from", "nonsense", check=False).returncode == 2


@pytest.mark.long
@pytest.mark.req("I4.9")
def test_a_short_bench_of_audit_writes_its_table_and_its_json(tmp_path: Path) -> None:
    options = ("--seconds", "0.3", "--batch", "1", "64", "--stored", "100", "600", "--queries", "5")
    result, printed = short_bench("audit", tmp_path, *options)
    assert "events/s" in printed
    assert result["audit_verify"] == 0
    assert [(run["stored"], run["events_per_message"]) for run in result["runs"]] == [
        (100, 1), (100, 64), (600, 1), (600, 64),
    ]  # fmt: skip
    for run in result["runs"]:
        assert run["events"] > 0
        assert run["refused"] == 0
    assert set(result["query_by_user"]) == {"p50_ms", "p99_ms"}
