"""The bench of telemetry measures what it says (I9.15). No number is asserted that depends on the machine (R27)."""

from pathlib import Path

import pytest

from tests.e2e.short_bench import short_bench


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.req("I9.15")
def test_a_short_bench_compares_four_stacks(tmp_path: Path) -> None:
    result, printed = short_bench("telemetry", tmp_path, "--rounds", "1", "--seconds", "1", seconds=380)
    assert "CPU ms a request" in printed
    assert set(result["cpu_ms_per_request"]) == {"nothing", "metrics", "sampled", "traced"}
    assert set(result["overhead_percent"]) == {"metrics", "sampled", "traced"}
    assert all(cpu["all"] > 0 for cpu in result["cpu_ms_per_request"].values())
    assert result["spans_received"] > 0
