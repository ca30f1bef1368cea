"""The adapter against a server over real TLS: what it asks, as whom, and what it makes of the answers."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from services.common.errors import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
)
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.ports import Impersonation, ObjectRef, Resource
from tests.contract.kube import Authority, caller, soon
from tests.contract.kube_server import POD, PODS, SCALE, Server, Thing


@pytest.mark.req("R2", "R14", "I2.9")
async def test_a_call_is_one_request_as_the_caller_and_never_with_its_credential(
    server: Server, cluster: KubernetesCluster
) -> None:
    impersonated = Impersonation("kubegate:kubegate:zoë", ("kubegate:role:viewer", "kubegate:direct"), "r-42")
    page = await cluster.session(impersonated, soon()).list(
        ObjectRef(PODS, "default"), Thing, label_selector="a in (b,c)"
    )
    assert [item.metadata.name for item in page.items] == ["web-1"]
    assert page.truncated
    (request,) = server.seen
    assert request.path == "/api/v1/namespaces/default/pods"
    assert request.query == {"limit": "500", "labelSelector": "a in (b,c)"}
    assert request.headers["Impersonate-User"] == "kubegate:kubegate:zoë"
    assert request.headers.getall("Impersonate-Group") == ["kubegate:role:viewer", "kubegate:direct"]
    assert request.headers["Impersonate-Extra-Request-Id"] == "r-42"
    assert "Authorization" not in request.headers


@pytest.mark.req("R2")
async def test_the_cores_own_account_impersonates_nobody(server: Server, cluster: KubernetesCluster) -> None:
    await cluster.session(None, soon()).list(ObjectRef(Resource("", "v1", "namespaces")), Thing)
    assert not [name for name in server.seen[0].headers if name.lower().startswith("impersonate")]


@pytest.mark.req("R2")
@pytest.mark.parametrize(
    "impersonation",
    [
        Impersonation("system:admin", ("kubegate:direct",), "r"),
        Impersonation("kubegate:kubegate:a", ("system:masters",), "r"),
        Impersonation("kubegate:kubegate:a\r\nImpersonate-Group: system:masters", (), "r"),
        Impersonation("kubegate:kubegate:a", (), "r\r\nImpersonate-Group: system:masters"),
    ],
)
async def test_no_other_identity_is_sent(
    server: Server, cluster: KubernetesCluster, impersonation: Impersonation
) -> None:
    with pytest.raises(PermissionDenied):
        cluster.session(impersonation, soon())
    assert server.seen == []


async def test_connections_are_kept_and_no_cookie_is(server: Server, cluster: KubernetesCluster) -> None:
    async def cookies(request: web.Request) -> web.StreamResponse:
        response = await server.things(request)
        response.set_cookie("sticky", "1")
        return response

    server.handler = cookies
    for _ in range(5):
        await cluster.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
    assert len(server.connections) == 1
    assert not any(request.cookies for request in server.seen)


async def test_proxy_variables_are_ignored(
    authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    cluster = await KubernetesCluster.open(authority.settings(server.url))
    await cluster.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
    assert len(server.seen) == 1
    await cluster.close()


@pytest.mark.parametrize("name", ["..", "a/b", "a%2Fb", "web-1?x=1"])
async def test_a_name_cannot_leave_its_place_in_the_path(server: Server, cluster: KubernetesCluster, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await cluster.session(caller("viewer"), soon()).get(ObjectRef(PODS, "default", name), Thing)
    with pytest.raises(InvalidArgument):
        await cluster.session(caller("viewer"), soon()).get(ObjectRef(PODS, name, "web-1"), Thing)
    assert server.seen == []


async def test_a_change_carries_its_body(server: Server, cluster: KubernetesCluster) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"name": "web"}})

    server.handler = echo
    session = cluster.session(caller("operator"), soon())
    await session.patch(SCALE, {"spec": {"replicas": 3}}, Thing)
    await session.delete(POD, uid="u-1")
    assert [request.content_type for request in server.seen] == ["application/merge-patch+json", "application/json"]
    assert json.loads(server.bodies[0]) == {"spec": {"replicas": 3}}
    assert json.loads(server.bodies[1])["preconditions"] == {"uid": "u-1"}
    assert [request.path for request in server.seen] == [
        "/apis/apps/v1/namespaces/default/deployments/web/scale",
        "/api/v1/namespaces/default/pods/web-1",
    ]


@pytest.mark.req("R2")
async def test_callers_at_the_same_time_never_cross(server: Server, cluster: KubernetesCluster) -> None:
    async def mirror(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0)
        return web.json_response({"metadata": {"name": request.headers["Impersonate-User"]}})

    server.handler = mirror

    async def ask(subject: str) -> str:
        session = cluster.session(caller("viewer", subject), soon())
        return (await session.get(POD, Thing)).metadata.name.removeprefix("kubegate:kubegate:")

    subjects = [f"user-{number}" for number in range(60)]
    assert await asyncio.gather(*map(ask, subjects)) == subjects


@pytest.mark.req("I7.1", "I7.2")
async def test_pages_tables_discovery_and_schemas_are_asked_as_kubernetes_documents_them(
    server: Server, cluster: KubernetesCluster
) -> None:
    bodies: list[dict[str, Any]] = [
        {"items": [], "metadata": {"continue": "t2", "remainingItemCount": 7}},
        {
            "kind": "Table",
            "columnDefinitions": [{"name": "Name"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "1"], "object": {"metadata": {"name": "a", "namespace": "d"}}}],
            "metadata": {},
        },
        {"kind": "APIGroupDiscoveryList", "items": []},
        {
            "kind": "APIGroupDiscoveryList",
            "items": [
                {
                    "metadata": {"name": "example.com"},
                    "versions": [
                        {
                            "version": "v2",
                            "resources": [
                                {"resource": "widgets", "scope": "Namespaced", "verbs": ["list"], "shortNames": ["w"]},
                                {"resource": "reviews", "scope": "Cluster", "verbs": ["create"]},
                                {"resource": "../secrets", "scope": "Cluster", "verbs": ["list"]},
                            ],
                        },
                        {"version": "v1", "resources": [{"resource": "widgets", "verbs": ["list"]}]},
                    ],
                }
            ],
        },
        {"components": {"schemas": {"x": {"type": "object"}}}},
        {"kind": "APIVersions", "versions": ["v1"]},
    ]

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(bodies.pop(0))

    server.handler = handler
    session = cluster.session(caller("viewer"), soon())
    page = await session.list(ObjectRef(PODS, "default"), Thing, field_selector="a=b", limit=3, after="t1")
    assert (page.after, page.remaining, page.truncated) == ("t2", 7, True)
    columns, table = await session.table(ObjectRef(PODS, "default"))
    assert (columns.names, set(columns.wide)) == (("Name", "IP"), {1})
    assert [(row.name, row.namespace, row.cells) for row in table.items] == [("a", "d", ("a", "1"))]
    (widgets,) = await session.kinds()
    assert (widgets.resource, widgets.short) == (Resource("example.com", "v2", "widgets"), ("w",))
    assert await session.schemas(Resource("example.com", "v2", "widgets")) == {"x": {"type": "object"}}
    with pytest.raises(FailedPrecondition, match=r"1\.30"):
        await session.kinds()
    asked = [(request.path, dict(request.query)) for request in server.seen]
    assert asked[0][1] == {"limit": "3", "fieldSelector": "a=b", "continue": "t1"}
    assert [path for path, _ in asked[2:5]] == ["/api", "/apis", "/openapi/v3/apis/example.com/v2"]
    assert "as=Table" in server.seen[1].headers["Accept"]
