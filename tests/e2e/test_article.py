"""Every call of the original article, as it stands, with curl (I2.2), and the faults that must not come back."""

import json
import re
import subprocess
from typing import Any

import pytest

from tests.e2e.stack import VIEWER_TOOLS, RunningStack, eventually

SCALE = '{"name":"nginx","namespace":"default","replicas":3}'


def bearer(token: str) -> tuple[str, str]:
    return "-H", f"Authorization: Bearer {token}"


def token_for_admin(stack: RunningStack) -> str:
    body = json.dumps({"username": "admin", "password": stack.secret("admin.password")})
    status, answer = stack.curl(
        "-X", "POST", "-H", "Content-Type: application/json", "-d", body, f"{stack.base_url}/auth/token"
    )
    assert status == 200, answer
    document = json.loads(answer)
    assert document["token_type"] == "Bearer"
    assert document["expires_in"] > 0
    return str(document["access_token"])


@pytest.mark.req("I2.2", "I2.3")
def test_resources_with_an_api_key(stack: RunningStack) -> None:
    status, body = stack.curl(*bearer(stack.viewer), f"{stack.base_url}/mcp/resources")
    assert status == 200
    names = {tool["name"] for tool in json.loads(body)["tools"]}
    assert names == VIEWER_TOOLS


@pytest.mark.req("I2.2", "I2.3")
def test_resources_with_a_token_from_the_password(stack: RunningStack) -> None:
    token = token_for_admin(stack)
    assert len(token.split(".")) == 3
    status, body = stack.curl(*bearer(token), f"{stack.base_url}/mcp/resources")
    assert status == 200
    assert "scale_deployment" in body


@pytest.mark.req("I2.2", "I2.3")
def test_the_api_key_scheme(stack: RunningStack) -> None:
    status, _ = stack.curl("-H", f"Authorization: ApiKey {stack.viewer}", f"{stack.base_url}/mcp/resources")
    assert status == 200


@pytest.mark.req("I2.2", "I2.3")
@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer wrong",
        "Authorization: Bearer",
        "Authorization: Bearer ",
        "Authorization;",
        "Authorization: Basic YWRtaW46YWRtaW4=",
        "Authorization: kg_demo_key",
        "Authorization: Bearer kg_demo_key",
        "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
        "X-API-Key: demo",
        "X-Nothing: none",
    ],
)
def test_a_bad_credential_is_401_and_never_somebody(stack: RunningStack, header: str) -> None:
    status, body = stack.curl("-H", header, f"{stack.base_url}/mcp/resources")
    assert status == 401, body
    assert "request_id" in json.loads(body)
    status, body = stack.curl("-H", header, "-X", "POST", f"{stack.base_url}/mcp/tools/list_pods", "-d", "{}")
    assert status == 401, body


@pytest.mark.req("I2.3")
def test_a_wrong_password_is_401_and_says_no_more_than_an_unknown_user(stack: RunningStack) -> None:
    answers = []
    for user in ("admin", "nobody"):
        body = json.dumps({"username": user, "password": "wrong"})
        status, answer = stack.curl("-X", "POST", "-d", body, f"{stack.base_url}/auth/token")
        assert status == 401
        answers.append({**json.loads(answer), "request_id": "", "instance": ""})
    assert answers[0] == answers[1]


@pytest.mark.req("I2.2", "I2.4", "I2.5")
def test_the_admin_scales_and_the_viewer_may_not(stack: RunningStack) -> None:
    url = f"{stack.base_url}/mcp/tools/scale_deployment"
    status, body = stack.curl(*bearer(stack.admin), "-X", "POST", url, "-d", SCALE)
    assert status == 200, body

    def three_running() -> bool:
        pods = stack.result("list_pods", namespace="default")["pods"]
        mine = [pod for pod in pods if pod["name"].startswith("nginx-")]
        return len(mine) == 3 and all(pod["status"] == "Running" for pod in mine)

    eventually(three_running, "three running nginx pods")

    status, body = stack.curl(*bearer(stack.viewer), "-X", "POST", url, "-d", SCALE)
    assert status == 403, body
    problem = json.loads(body)
    assert "k8s:deployments:scale" in json.dumps(problem), "a denial names the smallest missing grant"
    recorded = stack.events(request_id=problem["request_id"])
    assert {event["event_type"] for event in recorded} - {"authentication"} == {"authorization", "mcp_request"}
    own = next(event for event in recorded if event["event_type"] == "mcp_request")
    # The proof may be of an earlier request, found again in the core's cache: the record names it (R18).
    proof = stack.events(event_id=own["metadata"]["authn_event_id"])
    assert [(event["event_type"], event["user"]) for event in proof] == [("authentication", "viewer")]
    denial = next(event for event in recorded if event["event_type"] == "authorization")
    assert denial["user"] == "viewer"
    assert denial["result"] == "failure"
    request = next(event for event in recorded if event["event_type"] == "mcp_request")
    assert request["result"] == "failure"
    assert request["action"] == "scale_deployment"


ARTICLE_FIELDS = {
    "timestamp",
    "event_id",
    "event_type",
    "user",
    "action",
    "resource",
    "namespace",
    "result",
    "error_message",
    "metadata",
    "duration_ms",
}


@pytest.mark.req("I2.2", "I2.5")
def test_the_audit_log_is_json_lines_for_jq(stack: RunningStack) -> None:
    stack.result("list_pods", namespace="default")
    done = subprocess.run(
        f"tail -n 50 '{stack.endpoints['audit_log']}' | jq -c .",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events
    for event in events:
        assert set(event) >= ARTICLE_FIELDS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", event["timestamp"])
        assert event["result"] in {"success", "failure", "error", "unknown"}


def test_regression_the_namespace_is_part_of_the_decision(stack: RunningStack) -> None:
    """Permissions ignored the namespace."""
    assert stack.call("list_pods", {"namespace": "default"}, stack.viewer).status_code == 200
    assert stack.call("list_pods", {"namespace": "production"}, stack.viewer).status_code == 403


def test_regression_globs_match_as_globs(stack: RunningStack) -> None:
    """``feature-*`` matched only exactly."""
    key = stack.new_key("dev", "--role", "developer")
    assert stack.call("list_pods", {"namespace": "feature-x"}, key).status_code == 200
    assert stack.call("list_pods", {"namespace": "default"}, key).status_code == 403


@pytest.mark.req("R14")
def test_regression_a_missing_namespace_is_not_default(stack: RunningStack) -> None:
    for key in (stack.viewer, stack.admin):
        response = stack.call("list_pods", {}, key)
        assert response.status_code == 400
        assert "namespace" in response.text


def test_regression_a_failed_tool_is_not_recorded_as_success(stack: RunningStack) -> None:
    response = stack.call("get_pod_logs", {"name": "no-such-pod", "namespace": "default"})
    assert response.status_code == 404
    recorded = stack.events(request_id=response.json()["request_id"], event_type="mcp_request")
    assert [event["result"] for event in recorded] == ["error"]
    assert recorded[0]["error_message"]


def test_regression_logs_need_the_logs_permission(stack: RunningStack) -> None:
    """The log tool asked for pods:get while the policy said pods:logs."""
    options = ("--namespace", "default")
    looks = stack.new_key("looks", "--permission", "k8s:pods:list", *options)
    reads = stack.new_key("reads", "--permission", "k8s:pods:logs", *options)
    pod = stack.result("list_pods", namespace="default")["pods"][0]["name"]
    arguments: dict[str, Any] = {"name": pod, "namespace": "default"}
    assert stack.call("get_pod_logs", arguments, looks).status_code == 403
    assert stack.call("get_pod_logs", arguments, reads).status_code == 200


def test_regression_the_anonymous_have_an_auth_type(stack: RunningStack) -> None:
    status, body = stack.curl("-H", "Authorization: Bearer kg_nobody_" + "x" * 43, f"{stack.base_url}/mcp/resources")
    assert status == 401
    request_id = json.loads(body)["request_id"]
    assert request_id
    failures = [
        event for event in stack.events(event_type="authentication", result="failure") if event["metadata"]["auth_type"]
    ]
    assert failures
    assert not [event for event in stack.events(event_type="authentication") if not event["metadata"].get("auth_type")]
