"""The core's decision cache against a real authz over mTLS: its lease, lost and stopped streams (R12)."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import authz_pb2_grpc
from services.common.clock import SystemClock
from services.common.deadline import Deadline
from services.common.ids import uuid7
from services.mcp_core.adapters.authz import AuthzAdapter, policy_lease
from services.mcp_core.decision_cache import CachedAuthorizer
from services.mcp_core.model import Action, Allowed, Caller, Decision, Principal, RequestContext, Source
from services.mcp_core.tools.base import Permission
from tests.contract.authz_peers import Keys, Log, serve_audit, serve_authn, write_config
from tests.contract.authz_world import running, until
from tests.fakes.clock import FakeClock
from tests.fakes.mesh import Mesh

ROOT = Path(__file__).parents[2]
POLICY = 'roles: [{name: viewer, permissions: ["k8s:pods:list"]}]\n'
AUTHORIZATION = audit_pb2.EVENT_TYPE_AUTHORIZATION
LIST = Action("default", Permission("list", "", "pods"), "list_pods", "default")


def caller(token: str) -> Caller:
    context = RequestContext(uuid7(), "1" * 32, "mcp", Source("192.0.2.1", "test"), Deadline.after(10))
    return Caller(context, Principal("kubegate", "alice", digest=b"alice as a viewer"), token)


@pytest.mark.req("R12", "R11", "I5.8")
async def test_a_changed_policy_reaches_the_cache_with_the_next_ping(tmp_path: Path) -> None:
    async with running(tmp_path, POLICY) as world:
        peer = world.peer()
        adapter = AuthzAdapter(peer)
        cache = CachedAuthorizer(adapter, SystemClock())
        clock = FakeClock()
        lease = policy_lease(peer, cache.saw, clock)
        cache.use(lease)
        who = caller(world.keys.token(roles=["viewer"]))

        async def check() -> tuple[Decision, int]:
            before = len(world.log.events(AUTHORIZATION))
            decision = await cache.check(who, LIST)
            return decision, len(world.log.events(AUTHORIZATION)) - before

        watch = authz_pb2_grpc.AuthzServiceStub(peer.channel()).WatchPolicy()
        assert [(await check())[1], (await check())[1]] == [1, 1], "no lease, no cache"
        await lease.ping(watch)
        assert [(await check())[1], (await check())[1]] == [1, 0]
        clock.advance(1.0)
        assert (await check())[1] == 1, "the lease has run out"
        await lease.ping(watch)
        assert [(await check())[1], (await check())[1]] == [1, 0]

        world.replace_policy("roles: []\n...\n")
        await until(lambda: len(world.log.events(audit_pb2.EVENT_TYPE_ADMIN)) == 2)
        await lease.ping(watch)
        decision, asked = await check()
        assert asked == 1
        assert not isinstance(decision, Allowed)
        watch.cancel()
        await adapter.close()


@pytest.mark.req("R12", "I5.8", "I5.11")
async def test_a_stopped_authz_and_a_lost_stream_switch_the_cache_off_and_it_heals(tmp_path: Path) -> None:
    """A real process, stopped by SIGSTOP and then killed, with a clock that moves only when told."""
    mesh, keys, log = Mesh(tmp_path / "mesh"), Keys(), Log()
    authn, authn_port = await serve_authn(mesh, keys)
    audit, audit_port = await serve_audit(mesh, log)
    directory = tmp_path / "authz"
    config = write_config(mesh, directory, POLICY, authn=authn_port, audit=audit_port)

    async def start() -> asyncio.subprocess.Process:
        (directory / "address").unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.authz", "--config", str(config), cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
        )
        await until(lambda: (directory / "address").exists())
        return process

    process = await start()
    port = int((directory / "address").read_text().strip().rpartition(":")[2])
    peer = mesh.peer("authz", port, "service/mcp-core")
    adapter = AuthzAdapter(peer)
    cache = CachedAuthorizer(adapter, SystemClock())
    clock = FakeClock()
    lease = policy_lease(peer, cache.saw, clock)
    cache.use(lease)
    keeping = asyncio.create_task(lease.keep())
    who = caller(keys.token(roles=["viewer"]))
    try:
        await until(lease.fresh)
        assert isinstance(await cache.check(who, LIST), Allowed)
        again = await cache.check(who, LIST)
        assert isinstance(again, Allowed)
        assert again.cached
        os.kill(process.pid, signal.SIGSTOP)
        clock.advance(1.0)
        assert not lease.fresh(), "nothing but an answer extends it"
        misses = cache.counts.misses
        waiting = asyncio.create_task(cache.check(who, LIST))
        await until(lambda: cache.counts.misses == misses + 1)
        assert not waiting.done(), "authz is asked, and is silent"
        os.kill(process.pid, signal.SIGCONT)
        assert isinstance(await waiting, Allowed)
        await until(lease.fresh)

        process.kill()
        await process.wait()
        await until(lambda: not lease.fresh())
        assert cache.counts.drops >= 1
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if process.returncode is None:
            process.kill()
            await process.wait()
        await adapter.close()
        await peer.close()
        for server in (authn, audit):
            await server.stop(0)
