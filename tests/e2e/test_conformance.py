"""Clients that are not ours: the official conformance suite and the Inspector, through authn, authz and audit."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.cores import Core, core
from tests.e2e.stack import RunningStack
from tests.fakes.npm import NODE, installed, node_environment

HERE = Path(__file__).parents[1] / "conformance"
EXPECTED = HERE / "expected-failures.yml"
LEGACY, MODERN = "2025-11-25", "2026-07-28"

WITHOUT_FIXTURES = {
    LEGACY: ("server-initialize", "ping", "tools-list", "resources-list", "prompts-list"),
    MODERN: ("tools-list", "caching", "http-header-validation", "sep-2164-resource-not-found", "resources-list"),
}
"""Scenarios that need no tool of the suite's own."""


@pytest.fixture(scope="session")
def packages() -> Path:
    return installed(HERE / "npm")


@pytest.fixture(scope="module")
def fixtures(stack: RunningStack) -> Iterator[Core]:
    """A core that serves the suite's tools beside the product's."""
    with core(stack, "conformance", "tests.conformance.core") as running:
        yield running


def run_suite(packages: Path, target: Core, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    suite = packages / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    environment = node_environment(
        NODE_EXTRA_CA_CERTS=target.stack.ca_file, MCP_BEARER=target.stack.admin, TARGET_ORIGIN=target.base_url
    )
    command = [NODE, "--import", str(HERE / "with_token.mjs"), str(suite), "server"]
    return subprocess.run(
        [*command, "--url", f"{target.base_url}/mcp", "-o", str(out), *options],
        cwd=out,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.req("I6.9")
@pytest.mark.parametrize("revision", [LEGACY, MODERN])
def test_the_conformance_suite(fixtures: Core, packages: Path, tmp_path: Path, revision: str) -> None:
    expected: dict[str, list[str]] = yaml.safe_load(EXPECTED.read_text(encoding="utf-8"))
    baseline = tmp_path / "expected.yml"
    baseline.write_text(yaml.safe_dump(expected if revision == LEGACY else {"server": []}), encoding="utf-8")
    before = len(fixtures.stack.events(event_type="authorization"))
    done = run_suite(packages, fixtures, tmp_path, "--requirements", revision, "--expected-failures", str(baseline))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    passed = re.search(r"Total: (\d+) passed", done.stdout)
    assert passed is not None
    # The suite did run: a change that silently skips most of it is a failure, too.
    assert int(passed[1]) >= {LEGACY: 55, MODERN: 160}[revision], done.stdout[-6000:]
    # A tool that answers "denied" would satisfy some scenarios; those that matter look at the content. And each call
    # was decided by authz: what it decided while the suite ran is in the record.
    called = [event for event in fixtures.stack.events(event_type="mcp_request") if event["action"].startswith("test_")]
    assert {"test_simple_text", "test_image_content", "test_error_handling"} <= {event["action"] for event in called}
    assert all(event["decision"]["allowed"] for event in called if event["action"] == "test_simple_text")
    assert len(fixtures.stack.events(event_type="authorization")) > before


@pytest.mark.req("I6.9")
def test_every_expected_failure_has_its_reason() -> None:
    reason = False
    for line in EXPECTED.read_text(encoding="utf-8").splitlines():
        if line.startswith("  - "):
            assert reason, f"{line.strip()}: say above it why it may fail"
        reason = line.strip().startswith("#") or (reason and line.startswith("  - "))


@pytest.mark.req("I6.9")
@pytest.mark.parametrize(
    ("revision", "scenario"), [(era, one) for era, many in WITHOUT_FIXTURES.items() for one in many]
)
def test_the_product_itself_passes_what_needs_no_fixture(
    stack: RunningStack, packages: Path, tmp_path: Path, revision: str, scenario: str
) -> None:
    target = Core(stack, stack.base_url)
    done = run_suite(packages, target, tmp_path, "--scenario", scenario, "--spec-version", revision)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.req("I6.9")
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_connects_in_both_eras(stack: RunningStack, packages: Path, tmp_path: Path, era: str) -> None:
    config = tmp_path / "servers.json"
    headers = {"Authorization": f"Bearer {stack.viewer}"}
    server = {"type": "streamable-http", "url": stack.mcp_url, "headers": headers, "protocolEra": era}
    config.write_text(json.dumps({"mcpServers": {"kubegate": server}}), encoding="utf-8")
    command = [
        NODE,
        str(packages / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"),
    ]
    done = subprocess.run(
        [*command, "--cli", "--config", str(config), "--server", "kubegate", "--method", "tools/list"],
        cwd=tmp_path,
        env=node_environment(
            NODE_EXTRA_CA_CERTS=stack.ca_file, HOME=str(tmp_path), MCP_INSPECTOR_SECRET_STORE="memory"
        ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "list_pods" in {tool["name"] for tool in json.loads(done.stdout)["tools"]}
