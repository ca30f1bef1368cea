"""Confirmed and done once, through all the processes (R16, R20)."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mcp.client import ClientRequestContext
from mcp_types import ElicitRequestParams, ElicitResult

from tests.e2e.stack import RunningStack, eventually
from tests.e2e.test_mcp import connected
from tests.fakes.holding_proxy import HoldingProxy


def pod(stack: RunningStack, namespace: str = "default") -> str:
    """A pod that is running."""

    def found() -> str | None:
        pods = stack.result("list_pods", namespace=namespace)["pods"]
        names = [each["name"] for each in pods if each["name"].startswith("nginx-") and each["status"] == "Running"]
        return names[0] if names else None

    return eventually(found, "a running pod")


def refusal(stack: RunningStack, response: httpx.Response) -> Any:
    """The record of a refused request."""
    found = eventually(lambda: stack.events(request_id=response.headers["x-request-id"]), "the record")
    return next(each for each in found if each["event_type"] in ("mcp_request", "security_violation"))


@pytest.mark.req("R16", "I8.3", "I8.4")
def test_rest_asks_with_428_and_takes_each_answer_once(stack: RunningStack) -> None:
    name = pod(stack)
    arguments = {"name": name, "namespace": "default"}
    asked = stack.call("delete_pod", arguments)
    assert asked.status_code == 428, asked.text
    problem = asked.json()
    assert problem["request_id"]
    assert name in problem["detail"]
    assert stack.kubectl("get", "pod", name, "-o", "name").strip() == f"pod/{name}"

    token = problem["confirm"]
    altered = token[:40] + ("A" if token[40] != "A" else "B") + token[41:]
    other = stack.new_key("mallory", "--role", "admin", "--all-namespaces")
    for arguments_, key, why in (
        ({**arguments, "confirm": altered}, None, "forged"),
        ({**arguments, "name": "nginx-other", "confirm": token}, None, ""),
        ({**arguments, "confirm": token}, other, "foreign"),
    ):
        refused = stack.call("delete_pod", arguments_, key)
        assert refused.status_code in (404, 409), refused.text
        record = refusal(stack, refused)
        assert record["result"] == "failure"
        if why:
            assert record["event_type"] == "security_violation"
            assert record["metadata"]["violation_type"] == f"confirmation_{why}"
            assert token not in str(record)
    assert stack.kubectl("get", "pod", name, "-o", "name").strip() == f"pod/{name}"

    done = stack.call("delete_pod", {**arguments, "confirm": token})
    assert done.status_code == 200, done.text
    eventually(lambda: "NotFound" in stack.kubectl("get", "pod", name, check=False), "the pod gone")


@pytest.mark.req("R16", "I8.4", "I8.6")
def test_a_used_answer_and_one_about_an_object_that_changed_are_refused(stack: RunningStack) -> None:
    stack.kubectl("create", "deployment", "twice", "--image=nginx", "-n", "staging")
    arguments = {"name": "twice", "namespace": "staging", "replicas": 0}
    token = stack.call("scale_deployment", arguments).json()["confirm"]
    stack.kubectl("annotate", "deployment", "twice", "-n", "staging", "touched=yes")
    stale = stack.call("scale_deployment", {**arguments, "confirm": token})
    assert (stale.status_code, stale.json()["detail"].count("has changed since")) == (409, 1), stale.text
    assert refusal(stack, stale)["metadata"]["confirmation"] == "refused: stale"

    def confirmed() -> str:
        # Its controller writes its status now and then, which is a change, too.
        token: str = stack.call("scale_deployment", arguments).json()["confirm"]
        return token if stack.call("scale_deployment", {**arguments, "confirm": token}).status_code == 200 else ""

    used = eventually(confirmed, "a confirmation in time")
    assert stack.kubectl("get", "deploy", "twice", "-n", "staging", "-o", "jsonpath={.spec.replicas}") == "0"
    stack.kubectl("scale", "deployment", "twice", "-n", "staging", "--replicas=2")
    again = stack.call("scale_deployment", {**arguments, "confirm": used})
    assert again.status_code == 409, again.text
    assert stack.kubectl("get", "deploy", "twice", "-n", "staging", "-o", "jsonpath={.spec.replicas}") == "2"


@pytest.mark.req("R16", "I8.3")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_a_client_of_either_era_asks_its_user(stack: RunningStack, era: str) -> None:
    asked: list[str] = []

    def answering(action: Any, content: dict[str, Any] | None) -> Any:
        async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
            asked.append(params.message)
            return ElicitResult(action=action, content=content)

        return answer

    for action, content, done in (
        ("decline", None, False),
        ("accept", {"confirm": False}, False),
        ("accept", {"confirm": True}, True),
    ):
        name = await asyncio.to_thread(pod, stack)
        arguments = {"name": name, "namespace": "default"}
        async with connected(stack, era, stack.admin, answering(action, content)) as client:
            result = await client.call_tool("delete_pod", arguments)
        assert result.is_error is not done, result.content
        assert name in asked[-1]
        if not done:
            assert "not confirmed" in str(result.content)


@pytest.mark.req("R16", "I8.3")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_who_can_ask_nobody_is_refused_unless_policy_permits_handles(stack: RunningStack, era: str) -> None:
    name = await asyncio.to_thread(pod, stack)
    arguments = {"name": name, "namespace": "default"}
    async with connected(stack, era, stack.admin) as client:
        result = await client.call_tool("delete_pod", arguments)
        assert result.is_error
        assert "kubegate:confirm:handle" in str(result.content)
        result = await client.call_tool("delete_pod", {**arguments, "confirm": "x"})
        assert result.is_error
    allowed = ("k8s:pods:list", "k8s:pods:delete", "kubegate:confirm:handle")
    granted = [part for each in allowed for part in ("--permission", each)]
    key = await asyncio.to_thread(stack.new_key, "automaton", *granted, "--namespace", "default")
    async with connected(stack, era, key) as client:
        result = await client.call_tool("delete_pod", arguments)
        assert result.is_error
        token = str(result.content[0].text).rpartition("`confirm`: ")[2].partition(" ")[0]  # type: ignore[union-attr]
        result = await client.call_tool("delete_pod", {**arguments, "confirm": token})
        assert not result.is_error, result.content


@pytest.fixture(scope="module")
def held(own_stack: RunningStack) -> Iterator[tuple[RunningStack, HoldingProxy]]:
    """A stack whose cluster's answers can be kept back; a request may take 5 seconds."""
    stack = own_stack
    path = Path(stack.home / "mcp-core" / "cluster" / "kubeconfig")
    kubeconfig = yaml.safe_load(path.read_text())
    cluster = kubeconfig["clusters"][0]["cluster"]
    with HoldingProxy(int(cluster["server"].rpartition(":")[2])).serving() as proxy:
        cluster["server"] = f"https://127.0.0.1:{proxy.port}"
        path.write_text(yaml.safe_dump(kubeconfig))
        config = stack.home / "mcp-core" / "config.yaml"
        config.write_text(config.read_text() + "request_seconds: 5\n")
        stack.stop_service("mcp-core")
        stack.start_service("mcp-core")
        yield stack, proxy


def replicas(stack: RunningStack) -> str:
    return stack.kubectl("get", "deploy", "nginx", "-o", "jsonpath={.spec.replicas}")


@pytest.mark.timeout(400)
@pytest.mark.req("R20", "I8.5", "I8.7")
def test_a_core_that_is_killed_between_execution_and_answer_acts_once(held: tuple[RunningStack, HoldingProxy]) -> None:
    stack, proxy = held
    arguments = {"name": "nginx", "namespace": "default", "replicas": 5, "idempotency_key": "scale-to-five"}
    assert replicas(stack) != "5"
    proxy.answers.clear()
    lost: list[BaseException] = []

    def call() -> None:
        try:
            stack.call("scale_deployment", arguments)
        except httpx.HTTPError as error:
            lost.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: replicas(stack) == "5", "the execution")
    stack.stop_service("mcp-core")
    thread.join(30)
    assert lost, "the answer was lost"
    assert not stack.events(event_type="mcp_request", action="scale_deployment", phase="outcome")

    # Somebody else scales on; whoever repeats the first call must not undo that.
    stack.kubectl("scale", "deployment", "nginx", "--replicas=2")
    proxy.answers.set()
    stack.start_service("mcp-core")

    def settled() -> httpx.Response | None:
        response = stack.call("scale_deployment", arguments)
        return None if "under way" in response.text else response

    response = eventually(settled, "the end of the first request's time")
    assert response.status_code == 409, response.text
    assert "not known how it ended" in response.json()["detail"]
    assert "would still change 1 field" in response.json()["detail"]
    assert replicas(stack) == "2"

    found = json.loads(stack.run("audit", "orphans", "--grace", "0", "--json", check=False).stdout)
    assert [(each["action"], each["resource"]) for each in found] == [("scale_deployment", "deployments/nginx")]
    assert "replicas 2" in found[0]["cluster_now"]
    said = stack.run("audit", "orphans", "--grace", "0", check=False)
    assert (said.returncode, "end unknown" in said.stdout, "replicas 2" in said.stdout) == (1, True, True), said
    # Within the grace its outcome may still come.
    assert stack.run("audit", "orphans").stdout == "no change is without an outcome\n"

    # The same key for something else is refused; a new key acts.
    other = stack.call("scale_deployment", {**arguments, "replicas": 4})
    assert (other.status_code, replicas(stack)) == (409, "2"), other.text
    fresh = {**arguments, "idempotency_key": "scale-to-five-again"}
    assert stack.call("scale_deployment", fresh).status_code == 200
    stack.kubectl("scale", "deployment", "nginx", "--replicas=1")
    repeated = stack.call("scale_deployment", fresh)
    assert (repeated.status_code, repeated.json()["replicas"]) == (200, 5), repeated.text
    assert repeated.headers["kubegate-replay-of"]
    assert replicas(stack) == "1"
