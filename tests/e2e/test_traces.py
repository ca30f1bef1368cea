"""One trace from the edge through authn, authz and audit to the cluster, as a collector receives it (I9.4, I9.5)."""

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.semconv._incubating.attributes import (
    gen_ai_attributes,
    jsonrpc_attributes,
    k8s_attributes,
    mcp_attributes,
    rpc_attributes,
)
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    network_attributes,
    server_attributes,
    url_attributes,
)

from tests.e2e.stack import RunningStack, eventually
from tests.fakes.otlp_receiver import OtlpReceiver, ReceivedSpan

AUTHENTICATE = "kubegate.authn.v1.AuthnService/AuthenticateStream"
CHECK = "kubegate.authz.v1.AuthzService/CheckStream"
APPEND = "kubegate.audit.v1.AuditService/AppendStream"
CORE, AUTHN, AUTHZ, AUDIT = (f"kubegate-{name}" for name in ("mcp-core", "authn", "authz", "audit"))

TREE = {
    (CORE, "POST /mcp/tools/{name}"): [
        (CORE, "authenticate"),
        (CORE, "authorize"),
        (CORE, "record_intent"),
        (CORE, "execute_tool"),
        (CORE, "record_outcome"),
    ],
    (CORE, "authenticate"): [(CORE, AUTHENTICATE)],
    (AUTHN, AUTHENTICATE): [(AUTHN, APPEND)],
    (CORE, "authorize"): [(CORE, CHECK)],
    (AUTHZ, CHECK): [(AUTHZ, APPEND)],
    (CORE, "record_intent"): [(CORE, APPEND)],
    (CORE, "execute_tool"): [(CORE, "PATCH")],
    (CORE, "record_outcome"): [(CORE, APPEND)],
}
"""Which span lies below which, for a mutation by a caller that nothing is known of. A question's server span lies below
its client span, which has the same name."""


CONVENTIONS = {
    value
    for module in (
        *(gen_ai_attributes, jsonrpc_attributes, k8s_attributes, mcp_attributes, rpc_attributes),
        *(error_attributes, http_attributes, network_attributes, server_attributes, url_attributes),
    )
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
"""What the semantic conventions call things."""


def traceparent() -> tuple[str, str, str]:
    """Header, trace id and span id of a client of ours."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-01", trace_id, span_id


def complete(spans: OtlpReceiver, trace_id: str, when: Callable[[Sequence[ReceivedSpan]], bool]) -> list[ReceivedSpan]:
    """The trace, once it has all that it must have."""

    def probe() -> list[ReceivedSpan] | None:
        found = spans.trace(trace_id)
        return found if when(found) else None

    return eventually(probe, f"trace {trace_id}")


def scale(stack: RunningStack, key: str, header: str, replicas: int) -> None:
    with stack.client(key, follow_redirects=False) as client:
        arguments = {"name": "nginx", "namespace": "default", "replicas": replicas}
        response = client.post("/mcp/tools/scale_deployment", json=arguments, headers={"traceparent": header})
    assert response.status_code == 200, response.text


def has_tree(found: Sequence[ReceivedSpan]) -> bool:
    """The edge, what ``TREE`` has below it, and the answering side of two questions and four records."""
    return len(found) >= 1 + sum(map(len, TREE.values())) + 2 + 4


def check_tree(found: Sequence[ReceivedSpan], remote: str) -> None:
    by_id = {span.span_id: span for span in found}
    roots = [span for span in found if span.parent_id not in by_id]
    assert [(root.service, root.name, root.parent_id) for root in roots] == [(CORE, "POST /mcp/tools/{name}", remote)]
    below: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for span in found:
        parent = by_id.get(span.parent_id)
        if parent is not None and span.kind == "server":
            assert (parent.kind, parent.name) == ("client", span.name)
            assert parent.service != span.service
        elif parent is not None:
            below.setdefault((parent.service, parent.name), []).append((span.service, span.name))
    assert {key: sorted(value) for key, value in below.items()} == {key: sorted(value) for key, value in TREE.items()}
    servers = sorted((span.service, span.name) for span in found if span.kind == "server" and span.parent_id in by_id)
    assert servers == sorted([(AUTHN, AUTHENTICATE), (AUTHZ, CHECK), *[(AUDIT, APPEND)] * 4])


@pytest.mark.req("I9.4")
def test_one_trace_has_every_part_of_a_mutation_in_one_tree(stack: RunningStack, spans: OtlpReceiver) -> None:
    key = stack.new_key("traced", "--role", "admin")
    header, trace_id, remote = traceparent()
    scale(stack, key, header, 3)
    found = complete(spans, trace_id, has_tree)
    check_tree(found, remote)
    named = {(span.service, span.kind, span.name): span.attributes for span in found}
    edge = named[CORE, "server", "POST /mcp/tools/{name}"]
    assert edge["http.request.method"] == "POST"
    assert edge["http.route"] == "/mcp/tools/{name}"
    assert edge["http.response.status_code"] == 200
    asked = named[CORE, "client", CHECK]
    assert asked["rpc.system.name"] == "grpc"
    assert asked["rpc.method"] == CHECK
    assert asked["rpc.response.status_code"] == "OK"
    assert asked["server.address"] == "127.0.0.1"
    tool = named[CORE, "internal", "execute_tool"]
    assert (tool["gen_ai.operation.name"], tool["gen_ai.tool.name"]) == ("execute_tool", "scale_deployment")
    cluster = named[CORE, "client", "PATCH"]
    assert (cluster["http.request.method"], cluster["http.response.status_code"]) == ("PATCH", 200)
    assert cluster["k8s.cluster.name"] == "default"
    # The record names the trace, whoever wrote it.
    records = [event for event in stack.events() if event.get("trace_id") == trace_id]
    assert {event["writer"] for event in records} == {"service/authn", "service/authz", "service/mcp-core"}
    assert len(records) == 4


@pytest.mark.req("I9.4")
def test_items_of_one_stream_keep_to_their_own_traces(stack: RunningStack, spans: OtlpReceiver) -> None:
    """Many questions are in flight over the same streams; each lies in the trace of its own request."""
    keys = [stack.new_key(f"traced-{number}", "--role", "admin") for number in range(3)]
    headers = [traceparent() for _ in keys]
    with ThreadPoolExecutor(len(keys)) as pool:
        for done in [
            pool.submit(scale, stack, key, header, 3) for key, (header, _, _) in zip(keys, headers, strict=True)
        ]:
            done.result()
    for _, trace_id, remote in headers:
        check_tree(complete(spans, trace_id, has_tree), remote)


@pytest.mark.req("I9.4")
def test_a_refusal_is_a_trace_as_well(stack: RunningStack, spans: OtlpReceiver) -> None:
    header, trace_id, _ = traceparent()
    with stack.client("kg_0000_" + "x" * 43) as client:
        assert client.get("/mcp/resources", headers={"traceparent": header}).status_code == 401
    found = complete(spans, trace_id, lambda trace: any(span.name.startswith("GET") for span in trace))
    asked = next(span for span in found if span.name == AUTHENTICATE and span.service == CORE)
    assert asked.failed
    assert asked.attributes["error.type"] == asked.attributes["rpc.response.status_code"] == "UNAUTHENTICATED"


def mcp_call(stack: RunningStack, headers: dict[str, str], meta: dict[str, str]) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "list_pods", "arguments": {"namespace": "default"}, "_meta": meta},
    }
    said = {"accept": "application/json", "mcp-protocol-version": "2025-11-25"}
    with stack.client(stack.admin) as client:
        response = client.post("/mcp", json=body, headers=said | headers)
    assert response.status_code == 200, response.text
    assert not response.json()["result"].get("isError"), response.text


def is_mcp(span: ReceivedSpan) -> bool:
    return span.name == "tools/call list_pods"


@pytest.mark.req("I9.4", "I9.5")
def test_an_agents_own_trace_goes_on_below_its_meta(stack: RunningStack, spans: OtlpReceiver) -> None:
    header, trace_id, remote = traceparent()
    agent = secrets.token_hex(8)
    mcp_call(stack, {"traceparent": header}, {"traceparent": f"00-{trace_id}-{agent}-01"})
    found = complete(spans, trace_id, lambda trace: any(span.name == "POST /mcp" for span in trace))
    [http] = [span for span in found if span.name == "POST /mcp"]
    [mcp] = [span for span in found if is_mcp(span)]
    assert http.parent_id == remote
    assert mcp.parent_id == agent
    assert mcp.links == ((trace_id, http.span_id),)
    assert mcp.kind == "server"
    assert {key: mcp.attributes[key] for key in mcp.attributes if not key.startswith("network")} == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2025-11-25",
        "jsonrpc.request.id": "7",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "list_pods",
    }
    [tool] = [span for span in found if span.name == "execute_tool"]
    assert tool.parent_id == mcp.span_id
    assert any(span.parent_id == tool.span_id and span.name == "GET" for span in found)


@pytest.mark.req("I9.4")
def test_meta_alone_carries_a_trace_too(stack: RunningStack, spans: OtlpReceiver) -> None:
    _, trace_id, agent = traceparent()
    mcp_call(stack, {}, {"traceparent": f"00-{trace_id}-{agent}-01"})
    found = complete(spans, trace_id, lambda trace: any(map(is_mcp, trace)))
    [mcp] = [span for span in found if is_mcp(span)]
    assert mcp.parent_id == agent
    # The HTTP request had begun before its body was read: a trace of its own, which the span refers to.
    [(other, http)] = mcp.links
    [edge] = complete(spans, other, lambda trace: any(span.span_id == http for span in trace))[-1:]
    assert other != trace_id
    assert edge.name == "POST /mcp"
    [record] = [event for event in stack.events(event_type="mcp_request") if event["trace_id"] == trace_id]
    assert record["action"] == "list_pods"


@pytest.mark.req("I9.4")
@pytest.mark.parametrize(
    "sent",
    ["00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-" + "1" * 32 + "-00f067aa0ba902b7-01", "garbage", "0" * 5000],
)
def test_a_malformed_traceparent_begins_a_new_trace(stack: RunningStack, sent: str) -> None:
    with stack.client(stack.admin) as client:
        response = client.post("/mcp/tools/list_pods", json={"namespace": "default"}, headers={"traceparent": sent})
    assert response.status_code == 200
    [record] = stack.events(request_id=response.headers["x-request-id"], event_type="mcp_request")
    assert len(record["trace_id"]) == 32
    assert record["trace_id"] not in sent


@pytest.mark.req("I9.5")
def test_attributes_are_those_of_the_conventions_or_bear_our_name(stack: RunningStack, spans: OtlpReceiver) -> None:
    header, trace_id, _ = traceparent()
    mcp_call(stack, {"traceparent": header}, {})
    complete(spans, trace_id, lambda trace: {"POST /mcp", "GET"} <= {span.name for span in trace})
    used = {key for span in spans.all() for key in span.attributes}
    assert {"http.request.method", "rpc.method", "mcp.method.name", "gen_ai.tool.name", "k8s.cluster.name"} <= used
    assert {key for key in used - CONVENTIONS if not key.startswith("kubegate.")} == set()
