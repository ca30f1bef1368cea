"""The adapter against a server that answers as no cluster should, over real TLS."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import web

from services.common.deadline import Deadline
from services.common.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from services.common.runtime_errors import ConfigError
from services.mcp_core.adapters.kubeconfig import ClusterSettings
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied, ClusterRejected, OutcomeUnknown
from services.mcp_core.ports import Impersonation, ObjectRef, Resource
from tests.contract.kube import Authority, caller, soon

PODS = Resource("", "v1", "pods")
POD = ObjectRef(PODS, "default", "web-1")
SCALE = ObjectRef(Resource("apps", "v1", "deployments"), "default", "web", "scale")


class Meta(msgspec.Struct):
    name: str


class Thing(msgspec.Struct):
    metadata: Meta


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers with whatever `handler` says and keeps the requests."""

    def __init__(self) -> None:
        self.handler: Handler = self.things
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.connections: set[Any] = set()
        self.url = ""

    async def things(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"items": [{"metadata": {"name": "web-1"}}], "metadata": {"continue": "more"}})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        self.connections.add(request.transport)
        return await self.handler(request)

    def says(self, status: int, reason: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = json.dumps({"kind": "Status", "status": "Failure", "reason": reason, "message": message})
            return web.Response(status=status, text=body, content_type="application/json", headers=headers)

        self.handler = handler


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("kube"))


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server_context())
    await site.start()
    found.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def cluster(authority: Authority, server: Server) -> AsyncIterator[KubernetesCluster]:
    opened = await KubernetesCluster.open(authority.settings(server.url, max_response_bytes=100_000))
    yield opened
    await opened.close()


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


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (400, "BadRequest", InvalidArgument),
        (403, "Forbidden", ClusterDenied),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (422, "Invalid", ClusterRejected),
        (429, "TooManyRequests", ResourceExhausted),
        (401, "Unauthorized", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (418, "Teapot", FailedPrecondition),
    ],
)
async def test_the_clusters_refusals_keep_their_kind(
    server: Server, cluster: KubernetesCluster, status: int, reason: str, error: type[Exception]
) -> None:
    server.says(status, reason, "no password=hunter2 here " + "x" * 5000, {"Retry-After": "7"})
    with pytest.raises(error) as refused:
        await cluster.session(caller("viewer"), soon()).get(POD, Thing)
    message = str(refused.value)
    assert "hunter2" not in message
    assert len(message) < 800
    if status in {429, 503}:
        assert getattr(refused.value, "retry_after", None) == 7


@pytest.mark.req("R2")
async def test_a_403_is_said_to_be_the_clusters(server: Server, cluster: KubernetesCluster) -> None:
    server.says(403, "Forbidden", 'pods is forbidden: User "kubegate:kubegate:alice" cannot list resource "pods"')
    with pytest.raises(ClusterDenied) as refused:
        await cluster.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
    message = refused.value.public_message
    assert "the cluster's own RBAC refuses" in message
    assert "cannot list" in message
    assert "kubegate cluster rbac" in message


async def test_a_slow_answer_ends_at_the_deadline(server: Server, cluster: KubernetesCluster) -> None:
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await never.wait()
        raise AssertionError

    server.handler = hang
    with pytest.raises(DeadlineExceeded):
        await cluster.session(caller("viewer"), Deadline.after(0.3)).get(POD, Thing)
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await cluster.session(caller("operator"), Deadline.after(0.3)).patch(SCALE, {}, Thing)
    with pytest.raises(DeadlineExceeded):
        await cluster.session(caller("viewer"), Deadline.after(0.05)).get(POD, Thing)
    assert len(server.seen) == 2


async def test_a_broken_answer_to_a_change_is_not_called_undone(server: Server, cluster: KubernetesCluster) -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = drop
    with pytest.raises(OutcomeUnknown):
        await cluster.session(caller("operator"), soon()).patch(SCALE, {"spec": {"replicas": 3}}, Thing)
    with pytest.raises(Unavailable, match="broke"):
        await cluster.session(caller("operator"), soon()).get(POD, Thing)
    server.says(500, "InternalError", "etcdserver: request timed out")
    with pytest.raises(OutcomeUnknown):
        await cluster.session(caller("operator"), soon()).delete(POD)


@pytest.mark.req("I2.11")
async def test_an_unreachable_cluster_says_the_next_step(authority: Authority, unused_tcp_port: int) -> None:
    settings = authority.settings(f"https://127.0.0.1:{unused_tcp_port}", "nobody")
    cluster = await KubernetesCluster.open(settings)
    with pytest.raises(Unavailable) as away:
        await cluster.session(caller("operator"), soon()).patch(SCALE, {}, Thing)
    assert "Cluster dev is away: it cannot be reached. Nothing was done." in away.value.public_message
    assert "the operator should check" in away.value.public_message
    assert away.value.retry_after
    await cluster.close()


async def test_a_cluster_with_a_foreign_certificate_is_not_talked_to(server: Server, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    cluster = await KubernetesCluster.open(stranger.settings(server.url))
    with pytest.raises(Unavailable, match="certificate is not one that the kubeconfig trusts"):
        await cluster.version(soon())
    assert server.seen == []
    await cluster.close()


async def test_an_oversize_answer_is_refused_and_an_oversize_log_is_cut(
    server: Server, cluster: KubernetesCluster
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"x" * 10_000)
        return response

    server.handler = endless
    session = cluster.session(caller("viewer"), soon())
    with pytest.raises(FailedPrecondition, match="larger than 100000 bytes"):
        await session.list(ObjectRef(PODS, "default"), Thing)
    log = await session.logs("default", "web-1", container="app", tail_lines=5, previous=True, limit_bytes=50_000)
    assert (len(log.text), log.truncated) == (50_000, True)
    assert server.seen[1].query == {
        "container": "app",
        "tailLines": "5",
        "previous": "true",
        "limitBytes": "50000",
    }


@pytest.mark.parametrize("body", [b"<html>", b'{"items": 7}', b"", b'{"items": [{"metadata": {}}]}'])
async def test_what_is_not_kubernetes_is_not_understood(
    server: Server, cluster: KubernetesCluster, body: bytes
) -> None:
    async def garbage(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    server.handler = garbage
    with pytest.raises(Unavailable, match="not understood"):
        await cluster.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)


async def test_redirects_are_not_followed(server: Server, cluster: KubernetesCluster) -> None:
    server.says(302, headers={"Location": "/elsewhere"})
    with pytest.raises(Unavailable):
        await cluster.session(caller("viewer"), soon()).get(POD, Thing)
    assert len(server.seen) == 1


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


async def test_a_cluster_that_takes_connections_and_says_nothing_is_away(authority: Authority) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    cluster = await KubernetesCluster.open(authority.settings(f"https://127.0.0.1:{port}", "silent"))
    with pytest.raises(Unavailable, match="does not accept connections in time"):
        await cluster.session(caller("operator"), Deadline.after(0.4)).patch(SCALE, {}, Thing)
    await cluster.close()
    listener.close()


PLUGIN = """
import json, pathlib, sys
runs = pathlib.Path(sys.argv[1])
count = len(runs.read_text()) + 1 if runs.exists() else 1
runs.write_text("x" * count)
year = "2020" if count < 3 else "2999"
status = {"token": f"token-{count}", "expirationTimestamp": f"{year}-01-01T00:00:00Z"}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


async def test_an_exec_plugin_is_asked_again_when_its_token_ends(
    authority: Authority, server: Server, tmp_path: Path
) -> None:
    config = authority.kubeconfig(server.url)
    script, path = tmp_path / "plugin.py", tmp_path / "kubeconfig"
    script.write_text(PLUGIN)
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(script), str(tmp_path / "runs")],
    }
    config["users"][0]["user"] = {"exec": plugin}
    path.write_text(yaml.safe_dump(config))
    cluster = await KubernetesCluster.open(ClusterSettings("dev", path, allow_exec_plugins=True))
    for _ in range(4):
        await cluster.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
    sent = [request.headers["Authorization"] for request in server.seen]
    assert sent == ["Bearer token-2", "Bearer token-3", "Bearer token-3", "Bearer token-3"]
    await cluster.close()


def inside(authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch, **further: Any) -> ClusterSettings:
    """Settings for a pod whose API server is `server`."""
    place = authority.directory / "serviceaccount"
    place.mkdir(exist_ok=True)
    (place / "token").write_text("first-token\n")
    (place / "ca.crt").write_bytes(authority.ca_file.read_bytes())
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    return ClusterSettings("inside", None, service_account=place, **further)


@pytest.mark.req("I7.3")
async def test_inside_a_cluster_the_service_account_speaks_and_its_renewed_token_is_used(
    authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = inside(authority, server, monkeypatch)
    opened = await KubernetesCluster.open(settings)
    try:
        await opened.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
        (settings.service_account / "token").write_text("second-token")
        loader: Any = opened._credentials
        loader.token_expires_at -= timedelta(minutes=2)
        await opened.session(None, soon()).list(ObjectRef(PODS, "default"), Thing)
    finally:
        await opened.close()
    assert [request.headers["Authorization"] for request in server.seen] == [
        "Bearer first-token",
        "Bearer second-token",
    ]
    assert server.seen[0].headers["Impersonate-Group"] == "kubegate:role:viewer"


@pytest.mark.req("I7.3")
async def test_a_kubeconfig_is_never_overridden_by_the_cluster_around(
    authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(authority, server, monkeypatch)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    opened = await KubernetesCluster.open(authority.settings(server.url))
    try:
        await opened.session(None, soon()).list(ObjectRef(PODS, "default"), Thing)
    finally:
        await opened.close()
    assert "Authorization" not in server.seen[0].headers


@pytest.mark.req("I7.3", "I2.11")
async def test_outside_a_cluster_in_cluster_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="in_cluster"):
        await KubernetesCluster.open(ClusterSettings("inside", None, service_account=tmp_path))


@pytest.mark.req("I7.3")
async def test_only_when_configured_the_cores_own_account_acts_and_then_for_our_callers_only(
    authority: Authority, server: Server
) -> None:
    opened = await KubernetesCluster.open(authority.settings(server.url, impersonate=False))
    try:
        await opened.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
        with pytest.raises(PermissionDenied):
            opened.session(Impersonation("system:admin", (), "r"), soon())
    finally:
        await opened.close()
    assert not [name for name in server.seen[0].headers if name.lower().startswith("impersonate")]


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
