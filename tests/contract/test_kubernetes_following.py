"""A log that is followed, over real TLS: taken as it comes, and over for the cluster when it is over for the caller."""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest
from aiohttp import web

from services.common.errors import NotFound, ResourceExhausted, Unavailable
from services.mcp_core.adapters import kubernetes
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.errors import ClusterDenied
from services.mcp_core.ports import LogStream
from tests.contract.kube import caller, soon
from tests.contract.kube_server import Server


class Log:
    """A log whose pieces the test writes; `gone` is set when nobody reads any more."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.gone = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        writing = asyncio.create_task(self._write(response))
        try:
            while not writing.done():
                await asyncio.wait([writing], timeout=0.02)
                if request.transport is None or request.transport.is_closing():
                    break
        finally:
            writing.cancel()
            self.gone.set()
        return response

    async def _write(self, response: web.StreamResponse) -> None:
        while (piece := await self.pieces.get()) is not None:
            await response.write(piece)


@pytest.mark.req("I7.1", "R14")
async def test_it_is_one_request_whose_pieces_come_when_they_are_written(
    server: Server, cluster: KubernetesCluster
) -> None:
    log = Log()
    server.handler = log.serve
    session = cluster.session(caller("viewer"), soon())
    async with session.follow_logs("default", "web-1", container="app", tail_lines=7, since_seconds=60) as stream:
        assert await stream.read(0.01) == b""
        log.pieces.put_nowait(b"one\ntw")
        assert await stream.read(20) == b"one\ntw"
        log.pieces.put_nowait(b"o\n")
        assert await stream.read(20) == b"o\n"
        log.pieces.put_nowait(None)
        assert await stream.read(20) is None
    (request,) = server.seen
    log.pieces.put_nowait(None)
    assert request.path == "/api/v1/namespaces/default/pods/web-1/log"
    kept = {"follow": "true", "timestamps": "true", "container": "app"}
    assert dict(request.query) == {**kept, "tailLines": "7", "sinceSeconds": "60"}
    async with session.follow_logs("default", "web-1", container="app", since_time="2026-11-28T12:00:00Z"):
        pass
    assert dict(server.seen[1].query) == {**kept, "sinceTime": "2026-11-28T12:00:00Z"}
    assert request.headers["Impersonate-Group"] == "kubegate:role:viewer"


@pytest.mark.req("R19", "I7.1")
async def test_whoever_goes_away_ends_the_request(server: Server, cluster: KubernetesCluster) -> None:
    log = Log()
    server.handler = log.serve

    async def follow() -> None:
        async with cluster.session(caller("viewer"), soon()).follow_logs(
            "default", "web-1", container="", tail_lines=1
        ) as stream:
            log.pieces.put_nowait(b"begun\n")
            await stream.read(20)
            reading.set()
            await stream.read(20)

    reading = asyncio.Event()
    task = asyncio.create_task(follow())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await log.gone.wait()


@pytest.mark.req("R2", "I7.1")
@pytest.mark.parametrize(("status", "kind"), [(403, ClusterDenied), (404, NotFound)])
async def test_the_clusters_refusal_keeps_its_kind(
    server: Server, cluster: KubernetesCluster, status: int, kind: type[Exception]
) -> None:
    server.says(status, "", "no")
    with pytest.raises(kind):
        async with cluster.session(caller("viewer"), soon()).follow_logs(
            "default", "web-1", container="", tail_lines=1
        ):
            raise AssertionError


async def test_a_connection_that_breaks_is_an_error_of_ours(server: Server, cluster: KubernetesCluster) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"one\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    server.handler = breaks

    async def follow() -> None:
        session = cluster.session(caller("viewer"), soon())
        async with session.follow_logs("default", "web-1", container="", tail_lines=1) as stream:
            while await stream.read(20) is not None:
                pass

    with pytest.raises(Unavailable, match="broke"):
        await follow()


@pytest.mark.req("R25", "I7.1")
async def test_followed_logs_leave_connections_to_the_others(
    server: Server, cluster: KubernetesCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster._rest.configuration.connection_pool_maxsize >= kubernetes.MAX_STREAMS * 3
    monkeypatch.setattr(kubernetes, "MAX_STREAMS", 3)
    monkeypatch.setattr(kubernetes, "STREAMS_EACH", 2)
    log = Log()
    server.handler = log.serve

    def follow(subject: str = "alice") -> AbstractAsyncContextManager[LogStream]:
        # Each call is a request with a session of its own.
        session = cluster.session(caller("viewer", subject), soon())
        return session.follow_logs("default", "web-1", container="", tail_lines=1)

    async with AsyncExitStack() as open_ones:
        for _ in range(2):
            await open_ones.enter_async_context(follow())
        with pytest.raises(ResourceExhausted, match=r"You follow 2 logs.*End one"):
            await open_ones.enter_async_context(follow())
        await open_ones.enter_async_context(follow("bob"))
        with pytest.raises(ResourceExhausted, match="All callers together follow 3"):
            await open_ones.enter_async_context(follow("carol"))
    async with AsyncExitStack() as open_ones:
        await open_ones.enter_async_context(follow())
