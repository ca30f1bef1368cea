"""An authz in this process between fake neighbours, as the contract tests of authz use it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authz.config import AuthzConfig
from services.authz.wiring import main
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.config import load_config
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from tests.contract.authz_peers import Keys, Log, serve_audit, serve_authn, write_config
from tests.fakes.mesh import Mesh

ADMIN = audit_pb2.EVENT_TYPE_ADMIN


class World:
    """One authz with its neighbours."""

    def __init__(self, mesh: Mesh, keys: Keys, log: Log, directory: Path, servers: list[GrpcServer]) -> None:
        self.mesh, self.keys, self.log, self.directory, self.servers = mesh, keys, log, directory, servers
        self._peers: dict[str, Peer] = {}

    def peer(self, as_: str = "service/mcp-core") -> Peer:
        """A client with the certificate of ``as_``."""
        if as_ not in self._peers:
            port = int((self.directory / "address").read_text().strip().rpartition(":")[2])
            self._peers[as_] = self.mesh.peer("authz", port, as_)
        return self._peers[as_]

    async def check(
        self, token: str, action: identity_pb2.Action, as_: str = "service/mcp-core"
    ) -> authz_pb2.CheckResponse:
        """Asks Check."""
        request = authz_pb2.CheckRequest(
            principal_token=token,
            action=action,
            source=identity_pb2.Source(address="192.0.2.1", user_agent="curl/8"),
            request_id="req-1",
        )
        response: authz_pb2.CheckResponse = await self.peer(as_).unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check, request, Deadline.after(10)
        )
        return response

    async def list_allowed(
        self, token: str, *actions: identity_pb2.Action, as_: str = "service/mcp-core"
    ) -> authz_pb2.ListAllowedResponse:
        """Asks ListAllowed."""
        response: authz_pb2.ListAllowedResponse = await self.peer(as_).unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).ListAllowed,
            authz_pb2.ListAllowedRequest(principal_token=token, actions=actions),
            Deadline.after(10),
        )
        return response

    def replace_policy(self, text: str | None) -> None:
        """Puts another policy file in place, or none."""
        path = self.directory / "policy.yaml"
        if text is None:
            path.unlink()
            return
        partial = path.with_suffix(".part")
        partial.write_text(text)
        partial.replace(path)

    async def ask(self, stub: Any, method: str, request: Any, token: str, as_: str = "operator/admin") -> Any:
        """Asks an administrative method with a token in its metadata."""
        metadata = ((PRINCIPAL_TOKEN_METADATA, token),)
        return await self.peer(as_).unary(
            lambda channel: getattr(stub(channel), method), request, Deadline.after(10), metadata
        )

    async def close(self) -> None:
        for peer in self._peers.values():
            await peer.close()


@asynccontextmanager
async def running(tmp_path: Path, policy: str) -> AsyncIterator[World]:
    """One authz with its neighbours, in this process."""
    mesh, keys, log = Mesh(tmp_path / "mesh"), Keys(), Log()
    authn, authn_port = await serve_authn(mesh, keys)
    audit, audit_port = await serve_audit(mesh, log)
    directory = tmp_path / "authz"
    config = load_config(AuthzConfig, write_config(mesh, directory, policy, authn=authn_port, audit=audit_port))
    world = World(mesh, keys, log, directory, [authn, audit])
    task = asyncio.create_task(main(config))
    try:
        await until(lambda: task.done() or (directory / "address").exists())
        if task.done():
            task.result()
        await until(lambda: bool(log.events(ADMIN)))
        yield world
    finally:
        await world.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for server in (authn, audit):
            await server.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that the services do by themselves."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
