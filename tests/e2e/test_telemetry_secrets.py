"""Secrets planted wherever they could slip out are in no log, no span, no metric and no status (R26, I9.16)."""

import base64
import json
import secrets
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.stack import RunningStack, eventually
from tests.fakes.otlp_receiver import OtlpReceiver


def read(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def await_spans(stack: RunningStack, spans: OtlpReceiver, request_id: str, services: set[str]) -> None:
    """Until the record has a request, and the collector what audit and these services tell of it."""
    [event, *_] = eventually(lambda: stack.events(request_id=request_id), "the last record")
    wanted = {"kubegate-audit", *services}
    eventually(lambda: wanted <= {span.service for span in spans.trace(event["trace_id"])}, "the last spans")


@pytest.mark.req("R26", "I9.16")
def test_planted_secrets_come_out_nowhere(stack: RunningStack, spans: OtlpReceiver) -> None:
    planted = {name: f"canary{name}{secrets.token_hex(12)}" for name in ("argument", "user", "value", "agent", "tool")}
    planted |= {
        "guessed": f"kg_{secrets.token_hex(4)}_" + "C" * 43,
        "header": secrets.token_urlsafe(32),
        "password": secrets.token_urlsafe(24),
        "state": secrets.token_hex(16),
    }
    issued = stack.curl(
        *("-X", "POST", f"{stack.base_url}/auth/token"),
        *("-d", json.dumps({"username": "admin", "password": stack.secret("admin.password")})),
    )
    token = json.loads(issued[1])["access_token"]
    planted |= {"token": token, "admin": stack.admin, "viewer": stack.viewer}
    planted["admin_password"] = stack.secret("admin.password")
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "planted", "namespace": "feature-x", "annotations": {"note": planted["value"]}},
        "data": {"password": base64.b64encode(planted["value"].encode()).decode()},
    }
    file = stack.home / "planted.json"
    file.write_text(json.dumps(manifest))
    stack.kubectl("apply", "-f", str(file))
    planted["encoded"] = manifest["data"]["password"]  # type: ignore[index]

    agent = {"user-agent": planted["agent"], "tracestate": f"vendor={planted['state']}", "baggage": planted["state"]}
    with stack.client(token, follow_redirects=False) as client:
        for tool, arguments in (
            ("get_resource", {"kind": "secrets", "name": "planted", "namespace": "feature-x"}),
            ("list_secrets", {"namespace": "feature-x"}),
            ("list_pods", {"namespace": "default", "label_selector": f"password={planted['argument']}"}),
            ("list_pods", {"namespace": "default", "unknown": planted["argument"]}),
            (planted["tool"], {"password": planted["argument"]}),
        ):
            client.post(f"/mcp/tools/{tool}", json=arguments, headers=agent)
        meta = {"traceparent": planted["argument"], "secret": planted["argument"]}
        call = {"name": planted["tool"], "arguments": {"token": planted["argument"]}, "_meta": meta}
        for method in ("tools/call", planted["tool"]):
            body = {"jsonrpc": "2.0", "id": planted["argument"], "method": method, "params": call}
            client.post("/mcp", json=body, headers=agent | {"mcp-protocol-version": planted["header"]})
    with stack.client() as client:
        for sent in (planted["guessed"], planted["header"], f"{planted['guessed']}.x.y"):
            client.get("/mcp/resources", headers={"authorization": f"Bearer {sent}", "traceparent": sent})
        client.post("/auth/token", json={"username": planted["user"], "password": planted["password"]})
        client.get(f"/{planted['tool']}", headers=agent)
        last = [
            client.post("/auth/token", json={"username": "admin", "password": planted["password"]}),
            # In a namespace that no decision is cached for.
            client.post(
                "/mcp/tools/list_pods",
                json={"namespace": f"feature-{secrets.token_hex(8)}"},
                headers={"authorization": f"Bearer {stack.admin}"},
            ),
        ]
    # Each service sends its spans in order: where those of its last request have come, all before them have.
    for answer, asked in zip(last, ("authn", "authz"), strict=True):
        await_spans(stack, spans, answer.headers["x-request-id"], {"kubegate-mcp-core", f"kubegate-{asked}"})

    seen = {path.name: path.read_bytes() for path in sorted((stack.home / "run").glob("*.log"))}
    assert len(seen) >= 4
    for name, url in stack.endpoints["metrics"].items():
        seen[f"metrics of {name}"] = read(url)
        seen[f"status of {name}"] = read(url.removesuffix("metrics") + "status")
    exported = spans.all()
    assert {span.service for span in exported} == {f"kubegate-{name}" for name in stack.endpoints["metrics"]}
    seen["spans"] = b"".join(span.raw for span in exported)
    found = [
        f"{name} is in {place}"
        for place, text in seen.items()
        for name, secret in planted.items()
        if secret.encode() in text or (name == "token" and secret.rpartition(".")[2].encode() in text)
    ]
    assert not found, found
    private = [path for path in Path(stack.home).glob("**/*.key") if path.is_file()]
    for path in private:
        for line in path.read_bytes().splitlines():
            if len(line) >= 40 and not line.startswith(b"-----"):
                assert all(line not in text for text in seen.values()), path


@pytest.mark.req("I9.16")
def test_every_line_of_every_log_is_json(stack: RunningStack) -> None:
    for service in ("authn", "authz", "audit", "mcp-core"):
        lines = (stack.home / "run" / f"{service}.log").read_text(encoding="utf-8").splitlines()
        assert lines
        for line in lines:
            told = json.loads(line)
            assert {"timestamp", "level", "service", "event"} <= set(told), line
            assert told["service"] == service.replace("mcp-core", "mcp_core")
