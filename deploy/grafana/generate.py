"""The dashboards, described once: `python deploy/grafana/generate.py` writes dashboards/*.json (`make dashboards`).

Every panel is a title, a unit and PromQL; where it stands follows from the order. tests/unit/test_dashboards.py holds the
files to this description, and tests/e2e/test_metrics.py every metric and label in it to what running services export.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
RATE = "$__rate_interval"
COLUMNS = 24


@dataclass(frozen=True)
class Panel:
    """``queries``: legend and PromQL. ``kind``: timeseries or stat. ``width``: of 24 columns. ``warn``: from here red."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    warn: float | None = None
    says: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    says: str
    rows: Sequence[Row]


def stat(title: str, unit: str, query: str, *, warn: float | None = None, says: str = "", width: int = 4) -> Panel:
    return Panel(title, unit, (("", query),), "stat", width, 4, warn, says)


def quantiles(metric: str, by: str, selector: str = "") -> tuple[tuple[str, str], ...]:
    """Median and 99th percentile of a histogram."""
    inner = f"sum by (le, {by}) (rate({metric}_bucket{selector}[{RATE}]))"
    return tuple((f"{{{{{by}}}}} p{round(q * 100)}", f"histogram_quantile({q}, {inner})") for q in (0.5, 0.99))


OVERVIEW = Dashboard(
    "kubegate-overview",
    "kubegate: overview",
    "Is it up, is it fast, does it fail, and who is refused.",
    (
        Row(
            "Now",
            (
                stat("Services ready", "short", "sum(kubegate_ready)"),
                stat("Requests a second", "reqps", f"sum(rate(kubegate_http_request_duration_seconds_count[{RATE}]))"),
                stat(
                    "Failing requests",
                    "percentunit",
                    f'sum(rate(kubegate_http_request_duration_seconds_count{{status=~"5.."}}[{RATE}]))'
                    f" / sum(rate(kubegate_http_request_duration_seconds_count[{RATE}]))",
                    warn=0.01,
                ),
                stat(
                    "Denials in 5 m",
                    "short",
                    'sum(increase(mcp_authorization_checks_total{result="denied"}[5m]))',
                    warn=6,
                ),
                stat("Violations in 1 h", "short", "sum(increase(mcp_security_violations_total[1h]))", warn=1),
                stat("Record intact", "bool_yes_no", "min(kubegate_audit_intact)"),
            ),
        ),
        Row(
            "Requests",
            (
                Panel(
                    "Requests by route and status",
                    "reqps",
                    (
                        (
                            "{{route}} {{status}}",
                            f"sum by (route, status) (rate(kubegate_http_request_duration_seconds_count[{RATE}]))",
                        ),
                    ),
                ),
                Panel("Duration by route", "s", quantiles("kubegate_http_request_duration_seconds", "route")),
                Panel(
                    "Calls by tool and result",
                    "reqps",
                    (("{{tool}} {{result}}", f"sum by (tool, result) (rate(kubegate_tool_calls_total[{RATE}]))"),),
                ),
                Panel(
                    "Requests to the cluster by verb and status",
                    "reqps",
                    (
                        (
                            "{{verb}} {{status}}",
                            f"sum by (verb, status) (rate(kubegate_kubernetes_request_duration_seconds_count[{RATE}]))",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel("CPU", "percentunit", (("{{job}}", f"rate(process_cpu_seconds_total[{RATE}])"),), width=8),
                Panel("Memory", "bytes", (("{{job}}", "process_resident_memory_bytes"),), width=8),
                Panel(
                    "Versions",
                    "short",
                    (("{{service}} {{version}}", "sum by (service, version) (kubegate_build_info)"),),
                    width=8,
                ),
                Panel(
                    "Certificates end in",
                    "s",
                    (("{{job}} {{certificate}}", "kubegate_certificate_expiry_timestamp_seconds - time()"),),
                ),
                Panel(
                    "Warnings and errors logged",
                    "short",
                    (("{{job}} {{level}}", f"sum by (job, level) (rate(kubegate_log_lines_total[{RATE}]))"),),
                ),
            ),
        ),
    ),
)

SECURITY = Dashboard(
    "kubegate-security",
    "kubegate: who gets in, who is refused",
    "Authentication, authorization, violations, policy.",
    (
        Row(
            "Authentication",
            (
                Panel(
                    "Attempts by type and result",
                    "reqps",
                    (
                        (
                            "{{auth_type}} {{result}}",
                            f"sum by (auth_type, result) (rate(mcp_authentication_attempts_total[{RATE}]))",
                        ),
                    ),
                ),
                Panel(
                    "Failures against the alert",
                    "reqps",
                    (
                        ("failures", 'sum(rate(mcp_authentication_attempts_total{result="failure"}[5m]))'),
                        ("alert", "vector(10)"),
                    ),
                ),
                Panel(
                    "Throttled",
                    "reqps",
                    (("requests", f"sum(rate(kubegate_throttled_requests_total[{RATE}]))"),),
                    width=8,
                ),
                Panel(
                    "Sources known to the limiter", "short", (("sources", "sum(kubegate_limiter_sources)"),), width=8
                ),
                Panel("Open connections", "short", (("connections", "sum(kubegate_open_connections)"),), width=8),
            ),
        ),
        Row(
            "Authorization",
            (
                Panel(
                    "Denials by user",
                    "short",
                    (("{{user}}", 'sum by (user) (increase(mcp_authorization_checks_total{result="denied"}[5m]))'),),
                ),
                Panel(
                    "Denials by what was asked",
                    "short",
                    (
                        (
                            "{{action}} {{resource}}",
                            'sum by (action, resource) (increase(mcp_authorization_checks_total{result="denied"}[5m]))',
                        ),
                    ),
                ),
                Panel(
                    "Decisions by result",
                    "reqps",
                    (("{{result}}", f"sum by (result) (rate(mcp_authorization_checks_total[{RATE}]))"),),
                ),
                Panel(
                    "Violations",
                    "short",
                    (
                        (
                            "{{violation_type}} {{user}}",
                            "sum by (violation_type, user) (increase(mcp_security_violations_total[5m]))",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Policy",
            (
                Panel("Revision", "short", (("{{revision}}", "sum by (revision) (kubegate_policy_info)"),), width=8),
                Panel("Age", "s", (("age", "time() - kubegate_policy_adopted_timestamp_seconds"),), width=8),
                Panel(
                    "Reloads",
                    "short",
                    (
                        ("{{result}}", "sum by (result) (increase(kubegate_policy_reloads_total[1h]))"),
                        ("file refused", "max(kubegate_policy_file_rejected)"),
                        ("lease revision", "max(kubegate_policy_lease_revision)"),
                    ),
                    width=8,
                ),
            ),
        ),
    ),
)

RECORD = Dashboard(
    "kubegate-record",
    "kubegate: the record",
    "Does the record keep up, and is it intact.",
    (
        Row(
            "Now",
            (
                stat("Events", "short", "sum(kubegate_audit_log_events)"),
                stat("Waiting", "short", "sum(kubegate_audit_queue_events)"),
                stat("Oldest waits", "s", "max(kubegate_audit_lag_seconds)", warn=5),
                stat("Mirror behind", "short", "max(kubegate_audit_mirror_behind_events)", warn=1),
                stat("Last self-check", "s", "time() - min(kubegate_audit_self_check_timestamp_seconds)", warn=300),
                stat("Orphans", "short", "sum(kubegate_audit_orphans_total)", warn=1),
            ),
        ),
        Row(
            "Writing",
            (
                Panel(
                    "Events by writer",
                    "reqps",
                    (("{{writer}}", f"sum by (writer) (rate(kubegate_audit_events_total[{RATE}]))"),),
                ),
                Panel(
                    "Events refused",
                    "reqps",
                    (("{{code}}", f"sum by (code) (rate(kubegate_audit_refused_events_total[{RATE}]))"),),
                ),
                Panel("Commits", "s", quantiles("kubegate_audit_commit_duration_seconds", "job")),
                Panel(
                    "Events in a commit",
                    "short",
                    (
                        (
                            "mean",
                            f"sum(rate(kubegate_audit_commit_events_sum[{RATE}])) / sum(rate(kubegate_audit_commit_events_count[{RATE}]))",
                        ),
                    ),
                ),
                Panel(
                    "Queue and its limit",
                    "short",
                    (
                        ("waiting", "sum(kubegate_audit_queue_events)"),
                        ("limit", "sum(kubegate_audit_queue_limit_events)"),
                    ),
                ),
                Panel(
                    "Answers withheld",
                    "short",
                    (("requests", "sum(increase(kubegate_unrecorded_requests_total[5m]))"),),
                ),
            ),
        ),
        Row(
            "Intact",
            (
                Panel(
                    "Self-checks",
                    "short",
                    (("{{result}}", "sum by (result) (increase(kubegate_audit_self_checks_total[10m]))"),),
                ),
                Panel("Intact", "bool_yes_no", (("{{instance}}", "kubegate_audit_intact"),)),
            ),
        ),
    ),
)

WALK = Dashboard(
    "kubegate-walk",
    "kubegate: one request, step by step",
    "Where the time goes, and what the caches and streams do.",
    (
        Row(
            "Steps",
            (
                Panel("Duration of each step", "s", quantiles("kubegate_step_duration_seconds", "step"), width=24),
                Panel("Cluster by verb", "s", quantiles("kubegate_kubernetes_request_duration_seconds", "verb")),
                Panel(
                    "Cache hits",
                    "percentunit",
                    (
                        (
                            "{{cache}}",
                            f'sum by (cache) (rate(kubegate_cache_lookups_total{{result="hit"}}[{RATE}]))'
                            f" / sum by (cache) (rate(kubegate_cache_lookups_total[{RATE}]))",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Between the services",
            (
                Panel("Asked", "s", quantiles("kubegate_rpc_client_duration_seconds", "method")),
                Panel("Answered", "s", quantiles("kubegate_rpc_server_duration_seconds", "method")),
                Panel(
                    "Answers that are no success",
                    "reqps",
                    (
                        (
                            "{{job}} {{method}} {{code}}",
                            f'sum by (job, method, code) (rate(kubegate_rpc_client_duration_seconds_count{{code!="OK"}}[{RATE}]))',
                        ),
                    ),
                ),
                Panel(
                    "Streams and leases",
                    "short",
                    (
                        ("{{job}} {{method}}", "kubegate_stream_up"),
                        ("{{job}} lease on {{peer}}", "kubegate_lease_fresh"),
                    ),
                ),
                Panel(
                    "Streams opened again, leases lost",
                    "short",
                    (
                        ("{{job}} {{method}}", "sum by (job, method) (increase(kubegate_stream_reconnects_total[5m]))"),
                        ("{{job}} {{peer}}", "sum by (job, peer) (increase(kubegate_lease_losses_total[5m]))"),
                    ),
                ),
            ),
        ),
    ),
)

DASHBOARDS = (OVERVIEW, SECURITY, RECORD, WALK)


def render(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.says,
        "tags": ["kubegate"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": []},
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "kubegate", "tags": ["kubegate"], "asDropdown": True}],
        "panels": list(_panels(dashboard)),
    }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in dashboard.rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.warn is not None:
        steps.append({"color": "red", "value": panel.warn})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["custom"] = {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never"}
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(65 + index), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries)
        ],
    }


def files() -> dict[str, str]:
    """File names and what they hold."""
    return {f"{each.uid}.json": json.dumps(render(each), indent=2, ensure_ascii=False) + "\n" for each in DASHBOARDS}


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for old in HERE.glob("*.json"):
        old.unlink()
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
