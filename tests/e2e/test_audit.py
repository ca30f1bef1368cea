"""An auditor at a whole stack: what they can read, what is handed to them; and the bench."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.stack import RunningStack

ROOT = Path(__file__).parents[2]


def as_(key: str, directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`kubegate ARGS` with somebody else's key."""
    file = directory / "key"
    file.write_text(key)
    file.chmod(0o600)
    return subprocess.run(
        [str(Path(sys.executable).with_name("kubegate")), *args],
        capture_output=True,
        text=True,
        env={**os.environ, "KUBEGATE_KEY_FILE": str(file)},
        timeout=60,
        check=False,
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
    assert "whole and unaltered" in page.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert stack.run("compliance", "soc2", "--from", "nonsense", check=False).returncode == 2


@pytest.mark.req("I4.9")
def test_a_short_bench_of_audit_writes_its_table_and_its_json(tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    options = ["--seconds", "0.3", "--batch", "1", "64", "--stored", "100", "600", "--queries", "5", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.audit", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "events/s" in done.stdout
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["audit_verify"] == 0
    assert [(run["stored"], run["events_per_message"]) for run in result["runs"]] == [
        (100, 1), (100, 64), (600, 1), (600, 64),
    ]  # fmt: skip
    for run in result["runs"]:
        assert run["events"] > 0
        assert run["refused"] == 0
    assert set(result["query_by_user"]) == {"p50_ms", "p99_ms"}
