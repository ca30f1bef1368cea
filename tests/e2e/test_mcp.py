"""A real MCP client, in both eras of the protocol, through all four processes (I2.2, I2.4)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestParams, ElicitResult

from services.mcp_core.tools import REGISTRY
from tests.e2e.stack import PATIENCE, VIEWER_TOOLS, RunningStack, eventually

ERAS = ("2026-07-28", "legacy")
TOOLS = set(REGISTRY)


@asynccontextmanager
async def connected(
    stack: RunningStack, era: str, key: str, answer: ElicitationFnT | None = None
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(
            headers=headers, verify=ssl.create_default_context(cafile=stack.ca_file), timeout=30, trust_env=False
        ) as http,
        Client(
            streamable_http_client(stack.mcp_url, http_client=http), mode=era, cache=None, elicitation_callback=answer
        ) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


async def yes(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """A person who agrees to everything."""
    return ElicitResult(action="accept", content={"confirm": True})


@pytest.mark.req("I2.2")
@pytest.mark.parametrize("era", ERAS)
async def test_every_tool(stack: RunningStack, era: str) -> None:
    async with connected(stack, era, stack.admin, yes) as client:
        expected = "2026-07-28" if era != "legacy" else "2025-11-25"
        assert client.protocol_version == expected
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        assert {item["name"] for item in (await call(client, "list_namespaces"))["namespaces"]} >= {"default"}
        assert (await call(client, "list_services", namespace="default"))["services"]
        await call(client, "scale_deployment", name="nginx", namespace="default", replicas=3)

        async def running() -> list[str]:
            pods = (await call(client, "list_pods", namespace="default"))["pods"]
            return [pod["name"] for pod in pods if pod["name"].startswith("nginx-") and pod["status"] == "Running"]

        async def three(without: str = "") -> list[str]:
            for _ in range(int(PATIENCE * 5)):
                names = await running()
                if len(names) == 3 and without not in names:
                    return names
                await asyncio.sleep(0.2)
            raise AssertionError("no three running pods")

        names = await three()
        logs = await call(client, "get_pod_logs", name=names[0], namespace="default", tail_lines=3)
        assert all(isinstance(line, str) and line for line in logs["lines"])
        await call(client, "restart_pod", name=names[0], namespace="default")
        names = await three(without=names[0])
        await call(client, "delete_pod", name=names[1], namespace="default")
        await three(without=names[1])
        deployments = (await call(client, "list_deployments", namespace="default"))["deployments"]
        assert any(item["name"] == "nginx" for item in deployments)


@pytest.mark.req("I2.4")
@pytest.mark.parametrize("era", ERAS)
async def test_a_viewer_sees_only_its_tools_and_a_hidden_one_is_denied_and_recorded(
    stack: RunningStack, era: str
) -> None:
    async with connected(stack, era, stack.viewer) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == VIEWER_TOOLS
        before = len(stack.events(event_type="mcp_request", action="delete_pod", result="failure"))
        result = await client.call_tool("delete_pod", {"name": "nginx-x", "namespace": "default"})
        assert result.is_error
        assert "k8s:pods:delete" in str(result.content)
        eventually(
            lambda: len(stack.events(event_type="mcp_request", action="delete_pod", result="failure")) > before,
            "the recorded denial",
        )


@pytest.mark.req("I2.3")
@pytest.mark.parametrize("era", ERAS)
async def test_a_wrong_key_never_reaches_the_protocol(stack: RunningStack, era: str) -> None:
    with pytest.raises(BaseException) as caught:
        async with connected(stack, era, "wrong") as client:
            await client.list_tools()
    assert caught.value is not None
    with stack.client("wrong") as http:
        response = http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.req("I2.5")
async def test_a_call_leaves_authentication_decision_intent_and_outcome(stack: RunningStack) -> None:
    # A caller of whom no decision is kept yet.
    key = stack.new_key("walker", "--role", "admin", "--all-namespaces")
    async with connected(stack, "2026-07-28", key) as client:
        await call(client, "scale_deployment", name="nginx", namespace="default", replicas=3)
    outcome = stack.events(event_type="mcp_request", action="scale_deployment", phase="outcome")[-1]
    walk = stack.events(request_id=outcome["request_id"])
    kinds = [(event["event_type"], event.get("phase") or "") for event in walk]
    proof = stack.events(event_id=outcome["metadata"]["authn_event_id"])
    assert [event["event_type"] for event in proof] == ["authentication"]
    if outcome["metadata"].get("cached") != "true":
        assert kinds.pop(0) == ("authentication", "")
    assert kinds == [
        ("authorization", ""),
        ("mcp_request", "intent"),
        ("mcp_request", "outcome"),
    ]
    intent = walk[-2]
    assert outcome["intent_id"] == intent["event_id"]
    assert intent["result"] == "unknown"
    assert outcome["result"] == "success"
    assert {event["user"] for event in walk} == {"walker"}
    assert outcome["user_source"] == "verified"
