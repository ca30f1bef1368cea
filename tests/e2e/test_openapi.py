"""/openapi.json is what REST does: schemathesis asks in every way that the document allows, and in others.

With the viewer's key, so that nothing is changed: what it may not is denied as documented.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import over_at_once
from tests.e2e.stack import RunningStack

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def fuzz(stack: RunningStack, key: str, directory: Path, *options: str) -> str:
    """The report of a run in which nothing was found."""
    done = subprocess.run(
        [SCHEMATHESIS, "run", f"{stack.base_url}/openapi.json", "--tls-verify", stack.ca_file]
        + ["--header", f"Authorization: Bearer {key}", "--checks", f"{CHECKS},negative_data_rejection"]
        + ["--seed", "1", "--no-shrink", "--no-color", "--continue-on-failure", "--generation-database", "none"]
        + ["--warnings", "off", *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.req("I6.10")
def test_every_operation_answers_as_it_is_described(stack: RunningStack, tmp_path: Path) -> None:
    with stack.client() as http:
        document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {f"/mcp/tools/{name}" for name in REGISTRY} <= set(document["paths"])
    report = fuzz(stack, stack.viewer, tmp_path, "--phases", "coverage", "--max-time", "30")
    assert f"{len(REGISTRY) + 2} selected" in report


@pytest.mark.long
@pytest.mark.req("I6.10")
def test_reading_answers_as_it_is_described_whatever_is_sent(stack: RunningStack, tmp_path: Path) -> None:
    reading = "|".join(name for name, tool in REGISTRY.items() if tool.read_only and tool.waits is over_at_once)
    options = ["--phases", "fuzzing", "-n", "40", "--max-time", "80", "--include-operation-id-regex", f"^({reading})$"]
    fuzz(stack, stack.admin, tmp_path, *options)
