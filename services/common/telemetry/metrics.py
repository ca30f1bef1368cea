"""Every number that the services export, by name, with its labels. Label values are from closed or bounded sets.

``EVERY`` is exported by each service, the other groups by the service of their name.
"""

from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def _counter(name: str, says: str, *labels: str) -> Counter:
    return Counter(name, says, labels, registry=None)


def _gauge(name: str, says: str, *labels: str) -> Gauge:
    return Gauge(name, says, labels, registry=None)


def _histogram(name: str, says: str, *labels: str, buckets: tuple[float, ...] = _FAST) -> Histogram:
    return Histogram(name, says, labels, buckets=buckets, registry=None)


# Promised by name and label.
AUTHENTICATION_ATTEMPTS = _counter(
    "mcp_authentication_attempts_total",
    "Attempts to authenticate; authn counts what it judged, the core what it found in its cache or refused before.",
    *("auth_type", "result"),
)
AUTHORIZATION_CHECKS = _counter(
    "mcp_authorization_checks_total",
    "Decisions about actions; authz counts what it decided, the core what it found in its cache.",
    *("user", "resource", "action", "result"),
)
SECURITY_VIOLATIONS = _counter(
    "mcp_security_violations_total", "What no honest client does.", *("violation_type", "user")
)

# Of every service.
BUILD = _gauge("kubegate_build_info", "1; the labels say which service and version.", "service", "version")
READY = _gauge("kubegate_ready", "1 while nothing keeps the service from its work.")
CERTIFICATE_EXPIRY = _gauge(
    "kubegate_certificate_expiry_timestamp_seconds", "When a certificate in use ends.", "certificate"
)
LOGGED = _counter("kubegate_log_lines_total", "Lines logged at level warning and above.", "level")
RPC_SERVER = _histogram(
    "kubegate_rpc_server_duration_seconds", "Unary calls and stream items answered.", "method", "code"
)
RPC_CLIENT = _histogram("kubegate_rpc_client_duration_seconds", "Calls and stream items asked.", "method", "code")
STREAM_UP = _gauge("kubegate_stream_up", "1 while the stream to a peer is open.", "method")
STREAM_RECONNECTS = _counter("kubegate_stream_reconnects_total", "Streams to a peer opened after a break.", "method")
LEASE_FRESH = _gauge("kubegate_lease_fresh", "1 while a lease vouches for what is cached.", "peer")
LEASE_LOST = _counter("kubegate_lease_losses_total", "Lease streams lost.", "peer")

# Of the core.
REQUESTS = _histogram(
    "kubegate_http_request_duration_seconds", "HTTP requests answered.", "route", "status", buckets=_SLOW
)
STEPS = _histogram("kubegate_step_duration_seconds", "Steps of the walk of one request.", "step", buckets=_SLOW)
TOOL_CALLS = _counter("kubegate_tool_calls_total", "Calls recorded, by tool or MCP method.", "tool", "result")
CACHE_LOOKUPS = _counter("kubegate_cache_lookups_total", "Look-ups in the core's caches.", "cache", "result")
THROTTLED = _counter("kubegate_throttled_requests_total", "Requests over the limit of their source.")
LIMITED_SOURCES = _gauge("kubegate_limiter_sources", "Sources of which the limiter knows.")
OPEN_CONNECTIONS = _gauge("kubegate_open_connections", "Connections of clients.")
KUBERNETES_REQUESTS = _histogram(
    "kubegate_kubernetes_request_duration_seconds", "Requests to the cluster.", "verb", "status", buckets=_SLOW
)
RECORDS_LOST = _counter(
    "kubegate_unrecorded_requests_total", "Requests whose answer was withheld for want of a record."
)

# Of authz.
POLICY_INFO = _gauge("kubegate_policy_info", "1 for the revision of the policy that is in force.", "revision")
POLICY_REVISION = _gauge("kubegate_policy_lease_revision", "Number of the newest change that can alter a decision.")
POLICY_ADOPTED = _gauge("kubegate_policy_adopted_timestamp_seconds", "Since when the policy is in force.")
POLICY_RELOADS = _counter("kubegate_policy_reloads_total", "Changed policy files, adopted or rejected.", "result")
POLICY_REJECTED = _gauge("kubegate_policy_file_rejected", "1 while the policy file is not the policy in force.")

# Of audit.
AUDIT_EVENTS = _counter("kubegate_audit_events_total", "Events acknowledged, by writer.", "writer")
AUDIT_REFUSED = _counter("kubegate_audit_refused_events_total", "Events not taken.", "code")
AUDIT_COMMIT = _histogram("kubegate_audit_commit_duration_seconds", "Transactions, their fsync and mirror included.")
AUDIT_BATCH = _histogram(
    "kubegate_audit_commit_events", "Events in one transaction.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
AUDIT_QUEUE = _gauge("kubegate_audit_queue_events", "Events that wait for a commit.")
AUDIT_QUEUE_LIMIT = _gauge("kubegate_audit_queue_limit_events", "Events that may wait.")
AUDIT_LAG = _gauge("kubegate_audit_lag_seconds", "How long the oldest waiting event has waited.")
AUDIT_SIZE = _gauge("kubegate_audit_log_events", "Events in the log.")
AUDIT_MIRROR_BEHIND = _gauge("kubegate_audit_mirror_behind_events", "Events that the mirror file lacks.")
AUDIT_CHECKS = _counter("kubegate_audit_self_checks_total", "Checks of the stored record against its roots.", "result")
AUDIT_INTACT = _gauge("kubegate_audit_intact", "1 while the last self-check found the record intact.")
AUDIT_CHECKED = _gauge("kubegate_audit_self_check_timestamp_seconds", "When the record was last checked.")
AUDIT_ORPHANS = _counter("kubegate_audit_orphans_total", "Intents found without an outcome.")

EVERY: Final[tuple[MetricWrapperBase, ...]] = (
    *(BUILD, READY, CERTIFICATE_EXPIRY, LOGGED, RPC_SERVER, RPC_CLIENT, SECURITY_VIOLATIONS),
    *(STREAM_UP, STREAM_RECONNECTS, LEASE_FRESH, LEASE_LOST),
)
CORE: Final[tuple[MetricWrapperBase, ...]] = (
    *(AUTHENTICATION_ATTEMPTS, AUTHORIZATION_CHECKS),
    *(REQUESTS, STEPS, TOOL_CALLS, CACHE_LOOKUPS, THROTTLED, LIMITED_SOURCES, OPEN_CONNECTIONS),
    *(KUBERNETES_REQUESTS, RECORDS_LOST),
)
AUTHN: Final[tuple[MetricWrapperBase, ...]] = (AUTHENTICATION_ATTEMPTS,)
AUTHZ: Final[tuple[MetricWrapperBase, ...]] = (
    AUTHORIZATION_CHECKS,
    *(POLICY_INFO, POLICY_REVISION, POLICY_ADOPTED, POLICY_RELOADS, POLICY_REJECTED),
)
AUDIT: Final[tuple[MetricWrapperBase, ...]] = (
    *(AUDIT_EVENTS, AUDIT_REFUSED, AUDIT_COMMIT, AUDIT_BATCH, AUDIT_QUEUE, AUDIT_QUEUE_LIMIT, AUDIT_LAG, AUDIT_SIZE),
    *(AUDIT_MIRROR_BEHIND, AUDIT_CHECKS, AUDIT_INTACT, AUDIT_CHECKED, AUDIT_ORPHANS),
)


def follow(gauge: Gauge, value: Callable[[], float]) -> None:
    """Has a gauge ask for its value whenever it is scraped."""
    gauge.set_function(value)
