"""The dashboards, described once: `python deploy/grafana/generate.py` writes dashboards/*.json (`make dashboards`).

Every panel is a title, a unit and PromQL; where it stands follows from the order. tests/unit/test_dashboards.py holds
the files to this description, tests/e2e/test_metrics.py every metric and label in it to what running services export.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from panels import RATE, Dashboard, Panel, Row, quantiles, render, stat

HERE = Path(__file__).parent / "dashboards"

REQUESTS = "kubegate_http_request_duration_seconds_count"
DENIED = 'mcp_authorization_checks_total{result="denied"}'
COMMITS = "kubegate_audit_commit_events"

OVERVIEW = Dashboard(
    "kubegate-overview",
    "kubegate: overview",
    "Is it up, is it fast, does it fail, and who is refused.",
    (
        Row(
            "Now",
            (
                stat("Services ready", "short", "sum(kubegate_ready)"),
                stat("Requests a second", "reqps", f"sum(rate({REQUESTS}[{RATE}]))"),
                stat(
                    "Failing requests",
                    "percentunit",
                    f'sum(rate({REQUESTS}{{status=~"5.."}}[{RATE}])) / sum(rate({REQUESTS}[{RATE}]))',
                    warn=0.01,
                ),
                stat(
                    "Denials in 5 m",
                    "short",
                    f"sum(increase({DENIED}[5m]))",
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
                            f"sum by (route, status) (rate({REQUESTS}[{RATE}]))",
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
                    (("{{user}}", f"sum by (user) (increase({DENIED}[5m]))"),),
                ),
                Panel(
                    "Denials by what was asked",
                    "short",
                    (
                        (
                            "{{action}} {{resource}}",
                            f"sum by (action, resource) (increase({DENIED}[5m]))",
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
                            f"sum(rate({COMMITS}_sum[{RATE}])) / sum(rate({COMMITS}_count[{RATE}]))",
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
                            "sum by (job, method, code) "
                            f'(rate(kubegate_rpc_client_duration_seconds_count{{code!="OK"}}[{RATE}]))',
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


def files() -> dict[str, str]:
    """File names and what they hold."""
    return {f"{each.uid}.json": json.dumps(render(each), indent=2, ensure_ascii=False) + "\n" for each in DASHBOARDS}


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for old in HERE.glob("*.json"):
        old.unlink()
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
