"""The example of docs/integrating.md against a real stack."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import descriptor_pool

import kubegate.audit.v1.audit_pb2
import kubegate.authn.v1.authn_pb2
import kubegate.authz.v1.authz_pb2  # noqa: F401 - their descriptors are looked up by name
from services.common.grpc_server import matches, method_callers
from tests.e2e.stack import RunningStack

ROOT = Path(__file__).parents[2]
WINDOW = {"namespace": "default", "deployment": "nginx", "text": "Friday 18:00"}


@pytest.fixture(scope="module")
def url(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    certs = tmp_path_factory.mktemp("platform") / "windows"
    stack.run("certs", "issue", "platform/windows", "--out", str(certs))
    endpoints = stack.home / "endpoints.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.platform_service", "--certs", certs, "--endpoints", endpoints, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    process.wait(30)


def post(url: str, credential: str, body: Any = WINDOW) -> httpx.Response:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    return httpx.post(url, json=body, headers=headers, trust_env=False, timeout=30)


@pytest.mark.req("I5.4", "R5", "R22")
def test_it_authenticates_checks_and_records(stack: RunningStack, url: str) -> None:
    booked = post(url, stack.admin)
    assert booked.status_code == 201, booked.text
    answer = booked.json()
    assert answer["by"] == "kubegate:admin"
    [decision] = stack.events(event_id=answer["decision"])
    assert decision["metadata"]["asked_by"] == "platform/windows"
    assert decision["metadata"]["permission_check"] == "k8s:deployments:scale"
    [event] = stack.events(event_id=answer["window"])
    assert (event["event_type"], event["writer"]) == ("external", "platform/windows")
    assert (event["user"], event["user_source"]) == ("admin", "verified")
    assert (event["action"], event["resource"], event["namespace"]) == ("book_window", "deployments/nginx", "default")


@pytest.mark.req("I5.4")
def test_it_refuses_whom_kubegate_refuses(stack: RunningStack, url: str) -> None:
    denied = post(url, stack.viewer)
    assert denied.status_code == 403
    assert "k8s:deployments:scale in namespace default is not allowed" in denied.json()["error"]
    assert post(url, "kg_nobody_" + "x" * 43).status_code == 401
    assert post(url, "").status_code == 401
    assert post(url, stack.admin, {"namespace": ""}).status_code == 400
    assert post(url, stack.admin, {**WINDOW, "namespace": ""}).status_code == 403, "no namespace is not default"


@pytest.mark.req("I5.4")
def test_the_document_names_methods_that_a_platform_service_may_call() -> None:
    text = (ROOT / "docs" / "integrating.md").read_text()
    methods = set(re.findall(r"\b(kubegate\.\w+\.v1\.\w+)/(\w+)", text))
    assert {method for _, method in methods} >= {"Authenticate", "Check", "Append", "BatchCheck", "WatchPolicy"}
    for service, method in methods:
        assert descriptor_pool.Default().FindServiceByName(service).FindMethodByName(method) is not None
        assert matches("platform/windows", method_callers(service)[f"/{service}/{method}"]), method
    for proto in re.findall(r"-proto (\S+)", text):
        assert (ROOT / "protos" / proto).exists()
