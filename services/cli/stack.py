"""A running stack as the operator sees it: its services with the operator's certificate and the admin's key."""

import asyncio
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.cli.home import CLUSTER, HomeLayout
from services.cli.output import fail
from services.cli.pki import usable
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.config import PeerAddress, TlsFiles
from services.common.deadline import Deadline
from services.common.errors import Unauthenticated
from services.common.grpc_client import Peer
from services.common.grpc_server import NOTICES_METADATA, PROBLEMS_METADATA
from services.common.runtime_errors import StartupError
from services.common.tls import server_name

PATIENCE = 10.0
"""Seconds for one administrative call."""


class Health(NamedTuple):
    """What keeps a service from serving, empty when it is ready; and what an operator should know of one that serves,
    such as a policy file that it refused."""

    problems: list[str]
    notices: Sequence[str] = ()


class Stack:
    """Connections to the services of one home; close it when done."""

    def __init__(self, layout: HomeLayout, services: dict[str, str], health: dict[str, str]) -> None:
        """``services`` and ``health``: ``host:port`` of each, as the home's endpoints name them."""
        self.layout = layout
        self._key_file = Path(os.environ.get("KUBEGATE_KEY_FILE") or layout.credentials / "admin.key")
        self._services = services
        self._mesh = {**services, **health}
        self._peers: dict[str, Peer] = {}

    @classmethod
    def load(cls, home: Path) -> "Stack":
        """The stack of a home; ends the command with a message where there is none."""
        layout = HomeLayout(home)
        try:
            endpoints = layout.read_endpoints()
            return cls(layout, endpoints["services"], endpoints.get("health", {}))
        except StartupError as error:
            fail(str(error))

    @property
    def names(self) -> list[str]:
        """The services of this home, the embedded cluster included where there is one."""
        return list(self._services)

    def peer(self, name: str) -> Peer:
        """A service of the mesh, with the operator's certificate; the core answers for its health and nothing else."""
        if name not in self._peers:
            directory = self.layout.operator
            if not usable(directory):
                fail(
                    f"the operator's certificate in {directory} is missing or damaged; "
                    f"make another with `kubegate certs rotate --home {self.layout.root}`"
                )
            tls = TlsFiles(
                cert_file=directory / "tls.crt", key_file=directory / "tls.key", ca_file=directory / "ca.crt"
            )
            address = PeerAddress(address=self._mesh[name], server_name=server_name(name))
            self._peers[name] = Peer(name, address, tls)
        return self._peers[name]

    async def admin_token(self) -> str:
        """A principal token of the administrator, or of whose key the file ``KUBEGATE_KEY_FILE`` holds, issued to
        this operator (R15). Raises as ``token``."""
        return await self.token(None)

    async def token(self, key_file: Path | None) -> str:
        """A principal token of whoever the API key in a file stands for, issued to this operator (R15).

        ``key_file``: None for the one that commands use by default.

        Raises:
            DomainError: authn is away or refuses the key.
        """
        key = self.key(key_file)
        response: authn_pb2.AuthenticateResponse = await self.peer("authn").unary(
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).Authenticate,
            authn_pb2.AuthenticateRequest(credential=authn_pb2.Credential(token=key)),
            Deadline.after(PATIENCE),
        )
        return response.principal_token

    def key(self, key_file: Path | None = None) -> str:
        """The API key in a file, by default the one that commands use.

        Raises:
            Unauthenticated: it cannot be read.
        """
        path = key_file or self._key_file
        try:
            return path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise Unauthenticated(f"The API key cannot be read from {path}.") from error

    async def admin_metadata(self) -> Sequence[tuple[str, str]]:
        """Metadata that proves the administrator to an administrative RPC."""
        return ((PRINCIPAL_TOKEN_METADATA, await self.admin_token()),)

    async def health(self, name: str) -> Health:
        """What a service says of itself by grpc.health.v1; the embedded cluster by its /readyz."""
        if name == CLUSTER:
            ca = self.layout.service(CLUSTER) / "tls" / "ca.crt"
            url = f"https://{self._services[name]}/readyz"
            return Health(await asyncio.to_thread(_https_problems, url, ca))
        call = health_pb2_grpc.HealthStub(self.peer(name).channel()).Check(health_pb2.HealthCheckRequest(), timeout=3)
        try:
            answer = await call
            trailing = dict(await call.trailing_metadata() or ())
        except aio.AioRpcError as error:
            return Health([f"cannot be reached ({error.code().name.lower()})"])
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return Health([], _lines(trailing.get(NOTICES_METADATA, b"")))
        return Health(_lines(trailing.get(PROBLEMS_METADATA, b"not ready")))

    async def close(self) -> None:
        """Closes every connection."""
        for peer in self._peers.values():
            await peer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _lines(value: Any) -> list[str]:
    return (value if isinstance(value, bytes) else str(value).encode()).decode().splitlines()


def _https_problems(url: str, ca_file: Path) -> list[str]:
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(url, timeout=5):
            return []
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace").strip().splitlines() or [f"HTTP {error.code}"]
    except OSError as error:
        if not ca_file.exists():
            return [f"cannot be asked: {ca_file} is missing"]
        return [f"cannot be reached ({getattr(error, 'reason', error)})"]
