"""Each service is killed in turn: nothing is executed or answered, and the rest heals by itself (I2.6)."""

import json

import httpx
import pytest

from tests.e2e.stack import RunningStack, eventually


def replicas(stack: RunningStack) -> int:
    return int(stack.kubectl("get", "deploy", "nginx", "-o", "jsonpath={.spec.replicas}"))


def scale(stack: RunningStack, count: int) -> int:
    return stack.call("scale_deployment", {"name": "nginx", "namespace": "default", "replicas": count}).status_code


def _not_ready(client: httpx.Client) -> str:
    response = client.get("/readyz")
    return response.text if response.status_code == 503 else ""


@pytest.mark.req("I2.6", "R18")
@pytest.mark.parametrize("service", ["audit", "authz", "authn"])
def test_without_a_service_nothing_is_executed_or_answered_and_it_heals(own_stack: RunningStack, service: str) -> None:
    stack = own_stack
    before = replicas(stack)
    assert stack.call("list_pods", {"namespace": "default"}).status_code == 200
    stack.stop_service(service)
    if service == "authn":
        # What it has proven may be used for as long as the lease lasts, which is a second (R12).
        eventually(lambda: stack.call("list_pods", {"namespace": "default"}).status_code == 503, "the lease is over")
    for tool, arguments in (
        ("scale_deployment", {"name": "nginx", "namespace": "default", "replicas": before + 1}),
        ("list_pods", {"namespace": "default"}),
    ):
        response = stack.call(tool, arguments)
        assert response.status_code == 503, response.text
        assert int(response.headers["Retry-After"]) >= 1
        problem = response.json()
        assert problem["request_id"]
        assert "pods" not in problem
        assert "audit" in response.text or service in response.text
    assert replicas(stack) == before
    with stack.client() as client:
        # The answer of /readyz may be a second old.
        ready = eventually(lambda: _not_ready(client), "not ready")
        assert service in ready
        assert client.get("/healthz").status_code == 200
    stack.start_service(service)

    def healed() -> bool:
        with stack.client() as client:
            return client.get("/readyz").status_code == 200 and scale(stack, before) == 200

    eventually(healed, f"healed after {service}")
    assert replicas(stack) == before


@pytest.mark.req("I2.6", "I2.11")
def test_without_the_cluster_calls_fail_clearly_and_are_recorded(own_stack: RunningStack) -> None:
    stack = own_stack
    stack.stop_service("cluster")
    response = stack.call("list_pods", {"namespace": "default"})
    assert response.status_code == 503
    assert "cluster" in response.text
    recorded = stack.events(request_id=response.json()["request_id"], event_type="mcp_request")
    assert [event["result"] for event in recorded] == ["error"]
    stack.run("restart", "cluster")
    eventually(lambda: stack.call("list_pods", {"namespace": "default"}).status_code == 200, "the cluster is back")


@pytest.mark.req("I2.5")
def test_the_log_verifies_after_all_that(own_stack: RunningStack) -> None:
    report = json.loads(own_stack.run("audit", "verify", "--json").stdout)
    assert report["events"] > 0


@pytest.mark.req("R25")
def test_a_flood_of_bad_credentials_stops_nobody_else(own_stack: RunningStack) -> None:
    """Failures are limited per source and folded; mutations of others go on."""
    stack = own_stack
    before = len(stack.events(event_type="authentication", result="failure"))
    statuses: list[int] = []
    with stack.client("kg_nobody_" + "x" * 43) as flood:
        for index in range(300):
            statuses.append(flood.get("/mcp/resources").status_code)
            if index % 60 == 0:
                assert scale(stack, replicas(stack)) == 200
    assert set(statuses) <= {401, 429}
    assert 429 in statuses
    assert len(stack.events(event_type="authentication", result="failure")) - before < 300
