"""The adapter against a server that answers as no cluster should, over real TLS."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from services.common.deadline import Deadline
from services.common.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied, ClusterRejected, OutcomeUnknown
from services.mcp_core.ports import ObjectRef
from tests.contract.kube import Authority, caller, soon
from tests.contract.kube_server import POD, PODS, SCALE, Server, Thing


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


@pytest.mark.req("R20")
@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_a_change_is_sent_once_also_where_the_connection_ends_before_its_answer(
    server: Server, cluster: KubernetesCluster, method: str
) -> None:
    """HTTP libraries repeat PUT and DELETE on a used connection, and then nobody can say what the first one did."""
    session = cluster.session(caller("operator"), soon())
    await session.list(ObjectRef(PODS, "default"), Thing)

    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    server.handler = hang_up
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await cluster.send(method, "/api/v1/namespaces/default/pods/web-1", [], soon(), body={})
    assert [request.method for request in server.seen] == ["GET", method]
