"""What running services export: promised names and labels, bounded, in step with the record, and all that rules and
dashboards read (I9.6 to I9.13)."""

import json
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.cli.status_table import COLUMNS, WIDTH
from tests.e2e.stack import RunningStack, eventually
from tests.fakes.prometheus import Prometheus
from tests.fakes.promql import expressions_of_dashboards, expressions_of_rules, uses

ROOT = Path(__file__).parents[2]
SERVICES = ("audit", "authn", "authz", "mcp-core")
Key = tuple[str, frozenset[tuple[str, str]]]


def fetch(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def scrape(stack: RunningStack) -> dict[str, dict[Key, float]]:
    """Samples by service."""
    return {
        name: {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(fetch(url))
            for sample in family.samples
        }
        for name, url in stack.endpoints["metrics"].items()
    }


def total(samples: Mapping[str, Mapping[Key, float]], name: str, **labels: str) -> float:
    """The sum over all services of the series that carry these labels."""
    return sum(
        value
        for of_one in samples.values()
        for (metric, has), value in of_one.items()
        if metric == name and set(labels.items()) <= has
    )


@pytest.fixture(scope="module")
def busy(stack: RunningStack) -> RunningStack:
    """The shared stack after everything that has a number has happened in it."""
    key = stack.new_key("counted", "--role", "viewer")
    with stack.client(key) as client:
        client.post("/mcp/tools/list_pods", json={"namespace": "default"})
        client.post("/mcp/tools/scale_deployment", json={"namespace": "default", "name": "nginx", "replicas": 3})
        client.get("/mcp/resources")
    stack.call("scale_deployment", {"namespace": "default", "name": "nginx", "replicas": 3})
    with stack.client() as client:
        client.get("/healthz", headers={"host": "elsewhere.example"})
        client.get("/mcp/resources")
    return stack


@pytest.mark.req("I9.6")
def test_the_promised_names_have_exactly_the_promised_labels(busy: RunningStack) -> None:
    promised = {
        "mcp_authentication_attempts_total": {"auth_type", "result"},
        "mcp_authorization_checks_total": {"user", "resource", "action", "result"},
        "mcp_security_violations_total": {"violation_type", "user"},
    }
    samples = scrape(busy)
    assert set(samples) == set(SERVICES)
    for name, labels in promised.items():
        found = [has for of_one in samples.values() for metric, has in of_one if metric == name]
        assert found, name
        assert {frozenset(key for key, _ in has) for has in found} == {frozenset(labels)}


@pytest.mark.req("I9.7", "I9.11", "I9.13")
def test_rules_and_dashboards_read_only_what_is_exported(busy: RunningStack) -> None:
    exported: dict[str, set[str]] = {"up": set()}
    for of_one in scrape(busy).values():
        for metric, has in of_one:
            exported.setdefault(metric, set()).update(key for key, _ in has)
    missing: list[str] = []
    for expression in [*expressions_of_rules(), *expressions_of_dashboards()]:
        for part in re.split(r"\bor\b", expression):
            for metric, labels in uses(part):
                if metric not in exported:
                    missing.append(f"{metric} is exported by nothing: {expression}")
                elif not labels <= exported[metric]:
                    missing.append(f"{metric} has no label {labels - exported[metric]}: {expression}")
    assert not missing, "\n".join(missing)


@pytest.mark.req("I9.6", "I9.9")
def test_what_is_counted_is_what_is_recorded(stack: RunningStack) -> None:
    user = "reconciled"
    key = stack.new_key(user, "--role", "viewer")
    before = scrape(stack)
    with stack.client(key) as client:
        for _ in range(3):
            assert client.post("/mcp/tools/list_pods", json={"namespace": "default"}).status_code == 200
        for replicas in (1, 2):
            denied = {"namespace": "default", "name": "nginx", "replicas": replicas}
            assert client.post("/mcp/tools/scale_deployment", json=denied).status_code == 403
    after = scrape(stack)

    def risen(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    events = stack.events(user=user)
    checks = [event for event in events if event["event_type"] == "authorization"]
    calls = [event for event in events if event["event_type"] == "mcp_request"]
    assert len(calls) == 5
    allowed = {"user": user, "resource": "pods", "action": "list", "result": "allowed"}
    refused = {"user": user, "resource": "deployments", "action": "scale", "result": "denied"}
    assert risen("mcp_authorization_checks_total", **refused) == 2
    # Those that authz decided are in its own records; those from the core's cache in the core's.
    assert risen("mcp_authorization_checks_total", **allowed) == 3
    assert len(checks) == risen("kubegate_cache_lookups_total", cache="decision", result="miss")
    assert risen("mcp_authentication_attempts_total", auth_type="api_key", result="success") == 5
    assert risen("kubegate_tool_calls_total", tool="list_pods", result="success") == 3
    assert risen("kubegate_tool_calls_total", tool="scale_deployment", result="failure") == 2
    assert risen("kubegate_kubernetes_request_duration_seconds_count", verb="list", status="200") == 3
    for step in ("authenticate", "authorize", "record_outcome"):
        assert risen("kubegate_step_duration_seconds_count", step=step) == 5
    stored = risen("kubegate_audit_events_total")
    assert stored == total(after, "kubegate_audit_log_events") - total(before, "kubegate_audit_log_events")


@pytest.mark.req("I9.10")
def test_made_up_names_make_no_series(stack: RunningStack) -> None:
    before = {name: len(samples) for name, samples in scrape(stack).items()}
    with stack.client() as client:
        for number in range(12):
            client.post("/auth/token", json={"username": f"made-up-{number}", "password": "wrong wrong wrong"})
            client.get(f"/made/up/{number}")
            stack.call(f"made_up_{number}", {})
    samples = scrape(stack)
    text = json.dumps([[metric, sorted(has)] for of_one in samples.values() for metric, has in of_one])
    assert "made-up" not in text
    assert "made_up" not in text
    assert "made/up" not in text
    # A handful of closed values that had not occurred before, never one for each name.
    assert all(len(samples[name]) - before[name] < 120 for name in SERVICES)


@pytest.mark.req("I9.7")
def test_health_and_policy_are_numbers(stack: RunningStack) -> None:
    samples = scrape(stack)
    for name in SERVICES:
        assert samples[name]["kubegate_ready", frozenset()] == 1
        assert (
            samples[name]["kubegate_certificate_expiry_timestamp_seconds", frozenset({("certificate", "mesh")})] > 1e9
        )
    revisions = [has for metric, has in samples["authz"] if metric == "kubegate_policy_info"]
    assert len(revisions) == 1
    assert total(samples, "kubegate_policy_adopted_timestamp_seconds") > 1e9
    assert total(samples, "kubegate_audit_intact") == 1
    assert total(samples, "kubegate_audit_self_checks_total", result="altered") == 0
    assert total(samples, "kubegate_audit_mirror_behind_events") == 0


@pytest.mark.req("I9.7", "I5.6")
def test_a_refused_policy_file_is_a_number(stack: RunningStack) -> None:
    policy = Path(stack.endpoints["policy"])
    good, part = policy.read_bytes(), policy.with_suffix(".part")
    before = scrape(stack)["authz"]["kubegate_policy_reloads_total", frozenset({("result", "rejected")})]

    def replace(content: bytes, rejected: float) -> dict[Key, float]:
        part.write_bytes(content)
        part.replace(policy)

        def probe() -> dict[Key, float] | None:
            samples = scrape(stack)["authz"]
            return samples if samples["kubegate_policy_file_rejected", frozenset()] == rejected else None

        return eventually(probe, f"policy file rejected: {rejected}")

    try:
        samples = replace(b"roles: [{name: 7\n", 1)
        assert samples["kubegate_policy_reloads_total", frozenset({("result", "rejected")})] == before + 1
        assert samples["kubegate_ready", frozenset()] == 1
        [row] = [row for row in stack.json("status") if row["service"] == "authz"]
        assert "the policy file is unusable" in row["notices"][0]
        assert row["last_error"]["event"] == "changed policy is unusable, the last good one stays"
    finally:
        replace(good, 0)


@pytest.mark.req("I9.14")
def test_status_shows_the_whole_stack_in_one_table(stack: RunningStack) -> None:
    rows = {row["service"]: row for row in stack.json("status")}
    for name in SERVICES:
        assert rows[name]["version"] == "0.1.0"
        assert rows[name]["uptime_seconds"] >= 0
        assert rows[name]["certificates"]["mesh"].endswith("Z")
    assert rows["authz"]["revision"].startswith("policy ")
    assert rows["authn"]["revision"].startswith("credentials ")
    size, _, root = rows["audit"]["head"].partition(" ")
    assert int(size) > 0
    assert re.fullmatch("[0-9A-Za-z+/]{12}", root)
    assert set(rows["mcp-core"]["certificates"]) == {"mesh", "edge"}
    table = stack.run("status", check=False).stdout
    assert all(head in table for head in COLUMNS)
    assert max(map(len, table.splitlines())) <= WIDTH
    lines = {line.split()[0]: line for line in table.splitlines() if line.split()}
    assert set(SERVICES) <= set(lines)
    assert re.search(r" \d+ [0-9A-Za-z+/]{12}(?!\S)", lines["audit"])


@pytest.mark.req("I9.11")
def test_a_real_prometheus_scrapes_the_stack_and_raises_an_alert(stack: RunningStack, tmp_path: Path) -> None:
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [url.removeprefix("http://").removesuffix("/metrics")]}]}
        for name, url in stack.endpoints["metrics"].items()
    ]
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "deploy/prometheus/security.yaml")],
        "scrape_configs": jobs,
    }
    with Prometheus(tmp_path, config) as prometheus:
        eventually(lambda: len(prometheus.query("up == 1")) == 4, "four services scraped")
        assert not prometheus.query('ALERTS{alertname="AuditRecordAltered"}')
        with stack.client() as client:
            assert client.get("/healthz", headers={"origin": "https://evil.example"}).status_code == 403
        [alert] = eventually(
            lambda: prometheus.query(
                'ALERTS{alertname="SecurityViolation",alertstate="firing",violation_type="foreign_origin"}'
            ),
            "the alert",
        )
        assert alert["metric"]["severity"] == "critical"
