"""The bench of telemetry measures what it says (I9.15). No number is asserted that depends on the machine (R27)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.req("I9.15")
def test_a_short_bench_compares_four_stacks(tmp_path: Path) -> None:
    out = tmp_path / "telemetry.json"
    options = ["--rounds", "1", "--seconds", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.telemetry", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CPU ms a request" in done.stdout
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["cpu_ms_per_request"]) == {"nothing", "metrics", "sampled", "traced"}
    assert set(result["overhead_percent"]) == {"metrics", "sampled", "traced"}
    assert all(cpu["all"] > 0 for cpu in result["cpu_ms_per_request"].values())
    assert result["spans_received"] > 0
