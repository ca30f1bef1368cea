"""The bench measures what it says (I2.12). No number is asserted that depends on the machine (R27)."""

from pathlib import Path

import pytest

from bench.edge import shares
from bench.load import Sample, per_request_ms
from tests.e2e.short_bench import short_bench


@pytest.mark.long
@pytest.mark.req("I2.12")
def test_a_short_bench_writes_its_table_and_its_json(tmp_path: Path) -> None:
    result, printed = short_bench("run", tmp_path, "--seconds", "0.5", "--concurrency", "1", "4", "--pods", "3")
    assert "requests/s" in printed
    assert "CPU ms a request" in printed
    services = {"authn", "authz", "audit", "mcp-core", "cluster"}
    assert set(result["rss_mib"]) == services
    assert result["audit_verify"] == 0
    assert set(result["start"]) == {"first_seconds", "again_seconds"}
    for run, concurrency in zip(result["runs"], (1, 4), strict=True):
        assert run["concurrency"] == concurrency
        assert run["requests"] > 0
        assert set(run["cpu_ms_per_request"]) == services | {"callers"}
        # The core's own record at least, at times authn's and authz's: nothing is measured that is not recorded (R18).
        # What they proved and decided before is used again under their leases; the core's record names their events.
        assert 1 <= run["events_per_request"] <= 3.1


@pytest.mark.req("I2.12")
def test_percentiles_and_costs_are_what_they_are_called() -> None:
    sample = Sample(1, 2.0, tuple(n / 1000 for n in range(1, 101)))
    assert sample.per_second == 50
    assert sample.percentile_ms(50) == pytest.approx(50)
    assert sample.percentile_ms(99) == pytest.approx(99)
    assert per_request_ms({"authn": 1.0}, {"authn": 1.5}, 100) == {"authn": pytest.approx(5.0)}


@pytest.mark.long
@pytest.mark.req("I3.16")
def test_a_short_bench_of_authn_writes_its_table_and_its_json(tmp_path: Path) -> None:
    result, printed = short_bench("authn", tmp_path, "--seconds", "0.3", "--concurrency", "1", "4")
    assert "client-credential grants" in printed
    assert {line["in_flight"] for line in result["authenticate"]} == {1, 4}
    assert all(line["per_second"] > 0 for line in result["authenticate"])
    assert result["cached"]["microseconds"] > 0


@pytest.mark.long
@pytest.mark.req("I5.12")
def test_a_short_bench_of_authz_writes_its_tables_and_its_json(tmp_path: Path) -> None:
    result, printed = short_bench("authz", tmp_path, "--seconds", "0.3", "--roles", "10")
    assert "in process, microseconds a decision" in printed
    assert all(result["in_process"]["10"][name] > 0 for name in ("hot_us", "new_place_us", "new_principal_us"))
    measured = {(row["method"], row["per_call"], row["in_flight"]) for row in result["over_mtls"]}
    assert measured == {("Check", 1, 1), ("Check", 1, 32), ("CheckStream", 1, 1), ("CheckStream", 1, 32)} | {
        ("BatchCheck", 50, 1),
        ("BatchCheck", 50, 32),
        ("BatchCheckStream", 50, 1),
        ("BatchCheckStream", 50, 32),
    }
    # Nothing is measured that is not recorded (R18); calls at the edges of a measurement are in another's count.
    assert all(row["records_per_call"] > 0 for row in result["over_mtls"])


@pytest.mark.long
@pytest.mark.req("I7.6", "I8.12")
def test_the_bench_of_the_tools_says_what_a_call_costs_and_what_a_long_list_takes(tmp_path: Path) -> None:
    options = ("--seconds", "0.5", "--turns", "1", "--concurrency", "1", "--pods", "3", "--many", "120")
    result, _ = short_bench("tools", tmp_path, *options)
    (run,) = result["runs"]
    assert set(run["kubegate"]["cpu_ms_per_request"]) == {"authn", "authz", "audit", "mcp-core"}
    # One request to the cluster for one call (R14).
    assert run["kubegate"]["cluster_requests_per_call"] == pytest.approx(1, abs=0.05)
    for line in result["writes"]:
        # A change is one request and two durable records, a preview two requests and one (I8.12).
        asked, records = (2, 1) if line["call"] == "preview" else (1, 2)
        assert line["cluster_requests_per_call"] == pytest.approx(asked, abs=0.1)
        assert line["records_per_call"] == pytest.approx(records, abs=0.2)
    assert [line["concurrency"] for line in result["writes"]] == [1, 8, 1, 8]
    many = result["long_list"]
    assert many["default_answer"]["pods"] + many["default_answer"]["remaining"] == many["whole_answer"]["pods"]
    assert many["whole_answer"]["pods"] >= 120


@pytest.mark.long
@pytest.mark.req("I6.12")
def test_a_short_bench_of_the_edge_writes_its_table_and_its_json(tmp_path: Path) -> None:
    result, printed = short_bench("edge", tmp_path, "--seconds", "0.3", "--concurrency", "1", "4")
    assert "SDK's share" in printed
    measured = {(run["case"], run["interface"], run["concurrency"]) for run in result["runs"]}
    cases = ("list", "trivial call", "denied call")
    assert measured == {(case, way, c) for case in cases for way in ("mcp", "rest") for c in (1, 4)}
    assert all(run["requests"] > 0 for run in result["runs"])
    assert {"authn", "authz", "audit", "mcp-core"} <= set(result["runs"][0]["cpu_ms_per_request"])


@pytest.mark.req("I6.12")
def test_the_sdk_s_share_is_what_rest_does_without() -> None:
    runs = [
        {"case": "list", "interface": way, "concurrency": 1, "cpu_ms_per_request": {"mcp-core": cost}}
        for way, cost in (("mcp", 2.0), ("rest", 0.5))
    ]
    assert shares(runs) == {"list": {"1": 0.75}}
