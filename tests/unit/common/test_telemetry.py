"""Trace contexts, bounded labels, names, and what happens where nothing is measured (I9.4, I9.10)."""

import subprocess
import sys
from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import authn_pb2
from kubegate.authz.v1 import authz_pb2
from kubegate.common.v1 import lease_pb2
from services.common.errors import DeadlineExceeded
from services.common.telemetry import metrics
from services.common.telemetry.bounded import OTHER, UNKNOWN, Bounded, Closed
from services.common.telemetry.rpc import answering, method_of
from services.common.telemetry.trace_context import CURRENT, TraceContext, traceparent

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.req("I9.4")
def test_a_traceparent_goes_in_and_out() -> None:
    context = TraceContext.parse(VALID)
    assert context == TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)
    assert context.header() == VALID
    # Section 3.3: a version to come may append fields.
    assert TraceContext.parse("cc" + VALID[2:] + "-what-the-future-adds") == context
    assert TraceContext.parse(VALID[:-2] + "02") == TraceContext(context.trace_id, context.span_id, sampled=False)


@pytest.mark.req("I9.4")
@pytest.mark.parametrize(
    "text",
    [
        *("", "garbage", VALID.upper(), VALID + "-more", "ff" + VALID[2:], VALID[:-1], VALID + "\n", " " + VALID),
        "00-" + "0" * 32 + VALID[35:],
        VALID[:36] + "0" * 16 + "-01",
        "00-" + "x" * 100_000,
    ],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert TraceContext.parse(text) is None


@pytest.mark.req("I9.4")
def test_without_a_trace_nobody_is_told_of_one() -> None:
    assert CURRENT.get() is None
    assert traceparent() == ""
    with answering("kubegate.authz.v1.AuthzService/Check", VALID[:-2] + "00"):
        # Not recorded here, and still passed on, as it came.
        assert traceparent() == VALID[:-2] + "00"
    assert traceparent() == ""


@pytest.mark.req("I9.10")
def test_bounded_labels_fold() -> None:
    user = Bounded(2)
    assert [user(name) for name in ("ana", "bob", "eve", "ana", "")] == ["ana", "bob", OTHER, "ana", UNKNOWN]
    odd = Bounded(100)
    assert {odd("two words"), odd("line\nbreak"), odd("x" * 129), odd("\u202eevil")} == {OTHER}
    closed = Closed(("get", "list"))
    assert [closed(verb) for verb in ("get", "exec", "")] == ["get", OTHER, OTHER]


@pytest.mark.req("I9.10")
def test_no_metric_has_a_label_that_a_caller_may_fill() -> None:
    """Request ids, addresses, namespaces and names of objects are unbounded: they belong to the record."""
    groups = (metrics.EVERY, metrics.CORE, metrics.AUTHN, metrics.AUTHZ, metrics.AUDIT)
    labels = {label for group in groups for family in group for label in family._labelnames}
    assert not labels & {"request_id", "address", "namespace", "name", "path", "tenant", "trace_id", "error", "agent"}
    names = [
        next(iter(family.describe())).name for family in dict.fromkeys(family for group in groups for family in group)
    ]
    assert len(names) == len(set(names))
    assert all(name.startswith(("mcp_", "kubegate_")) for name in names)


@pytest.mark.req("I9.7")
def test_a_calls_status_is_in_its_duration() -> None:
    method = "kubegate.authz.v1.AuthzService/Explain"

    def count(code: str) -> float:
        [family] = list(metrics.RPC_SERVER.collect())
        found = [
            sample.value
            for sample in family.samples
            if sample.name.endswith("_count") and sample.labels == {"method": method, "code": code}
        ]
        return sum(found)

    before = {code: count(code) for code in ("OK", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED")}
    with answering(method, ""):
        pass
    errors: tuple[tuple[BaseException, str], ...] = (
        (DeadlineExceeded("x"), "DEADLINE_EXCEEDED"),
        (TimeoutError(), "DEADLINE_EXCEEDED"),
        (RuntimeError("kg_secret"), "INTERNAL"),
        (KeyboardInterrupt(), "CANCELLED"),
    )
    for error, _ in errors:
        with pytest.raises(type(error)), answering(method, ""):
            raise error
    risen = {code: count(code) - before[code] for code in before}
    assert risen == {"OK": 1, "DEADLINE_EXCEEDED": 2, "INTERNAL": 1, "CANCELLED": 1}


@pytest.mark.req("I9.5")
@pytest.mark.parametrize(
    ("message", "method"),
    [
        (authn_pb2.AuthenticateStreamRequest, "kubegate.authn.v1.AuthnService/AuthenticateStream"),
        (authz_pb2.CheckStreamResponse, "kubegate.authz.v1.AuthzService/CheckStream"),
        (audit_pb2.AppendStreamRequest, "kubegate.audit.v1.AuditService/AppendStream"),
    ],
)
def test_a_call_is_named_by_its_full_method(message: Any, method: str) -> None:
    assert method_of(message) == method


@pytest.mark.req("I9.5")
def test_a_message_of_no_method_is_an_error() -> None:
    with pytest.raises(LookupError, match="LeaseAnswer belongs to no method"):
        method_of(lease_pb2.LeaseAnswer)


@pytest.mark.req("I9.9")
def test_the_sdk_is_not_loaded_where_no_traces_are_configured() -> None:
    wirings = ", ".join(f"services.{service}.wiring" for service in ("authn", "authz", "audit", "mcp_core"))
    code = f"import sys, {wirings}; sys.exit('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.req("I9.16", "R26")
def test_log_lines_carry_the_trace_and_no_secret() -> None:
    """As a process logs: its own lines and those of libraries, an exception's text included."""
    code = f"""
import logging
from services.common import log
from services.common.telemetry.trace_context import CURRENT, TraceContext
log.configure("authn")
ours = log.get_logger("here")
ours.warning("before", password="hunter2hunter2")
CURRENT.set(TraceContext.parse("{VALID}"))
try:
    raise RuntimeError("kg_abc_" + "S" * 43)
except RuntimeError:
    ours.exception("unexpected error", token="eyJhbGciOi.eyJzdWIi.c2ln")
logging.getLogger("library").error("failed with %s", "kg_abc_" + "S" * 43)
import json, sys
print(json.dumps(log.last_error()), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    import json

    before, ours, library, last = map(json.loads, done.stderr.strip().splitlines())
    assert "trace_id" not in before
    for line in (ours, library):
        assert line["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert line["span_id"] == "00f067aa0ba902b7"
        assert line["service"] == "authn"
    assert "RuntimeError" in ours["exception"]
    for secret in ("hunter2", "SSSS", "eyJhbGciOi"):
        assert secret not in done.stderr
    assert last["event"] == "error of a library"
    assert set(last) == {"at", "component", "event"}
