"""A real authn process, a real authz process beside it, and an audit service that the test holds in hand."""

import base64
import secrets
from pathlib import Path
from typing import Any

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.cli.home import free_port
from services.cli.pki import write_private
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from tests.fakes.audit_service import FakeAudit
from tests.fakes.mesh import Mesh
from tests.fakes.processes import ServiceProcess, peer_config, tls_config

POLICY = """
roles:
  - {name: admin, permissions: ["k8s:*"]}
  - {name: viewer, permissions: ["k8s:pods:list"], namespaces: [default]}
  - {name: desk, permissions: ["kubegate:keys:*", "kubegate:users:*", "kubegate:issuers:*", "k8s:pods:list"]}
  - {name: key-reader, permissions: ["kubegate:keys:list"]}
"""
BOOTSTRAP_TOKEN = base64.b64encode(secrets.token_bytes(32)).decode()
CORE = "service/mcp-core"
OPERATOR = "operator/alice"


class AuthnStack:
    """Start it, ``bootstrap`` it, ask it as any peer of the mesh."""

    def __init__(self, directory: Path, audit: FakeAudit, mesh: Mesh) -> None:
        self.directory = directory
        self.mesh = mesh
        self.audit = audit
        self._peers: dict[str, Peer] = {}
        self.first = authn_pb2.BootstrapResponse()
        self.authn = self._authn()
        self.authz = self._authz()

    @classmethod
    async def make(cls, directory: Path) -> "AuthnStack":
        """With audit serving, authn and authz not started."""
        mesh = Mesh(directory / "mesh")
        audit = FakeAudit(mesh.tls("service/audit"))
        await audit.start()
        return cls(directory, audit, mesh)

    def _authn(self) -> ServiceProcess:
        home = self.directory / "authn"
        home.mkdir(parents=True, exist_ok=True)
        for name in ("pepper", "kek"):
            write_private(home / name, base64.b64encode(secrets.token_bytes(32)) + b"\n")
        write_private(home / "bootstrap-token", BOOTSTRAP_TOKEN.encode() + b"\n")
        process = ServiceProcess("authn", home, {})
        process.port = free_port()
        self.authz_port = free_port()
        process.config = {
            "tls": tls_config(self.mesh.tls("service/authn")),
            "audit": peer_config("audit", self.audit.port),
            "authz": peer_config("authz", self.authz_port),
            "store": "authn.db",
            "pepper_file": "pepper",
            "kek_file": "kek",
            "bootstrap_token_file": "bootstrap-token",
            "audience": "https://localhost:8443/mcp",
        }
        return process

    def _authz(self) -> ServiceProcess:
        home = self.directory / "authz"
        home.mkdir(parents=True, exist_ok=True)
        (home / "policy.yaml").write_text(POLICY)
        process = ServiceProcess(
            "authz",
            home,
            {
                "tls": tls_config(self.mesh.tls("service/authz")),
                "authn": peer_config("authn", self.authn.port),
                "audit": peer_config("audit", self.audit.port),
                "policy": "policy.yaml",
                "store": "authz.db",
            },
        )
        process.port = self.authz_port
        return process

    async def start(self) -> None:
        await self.authn.start()
        await self.authz.start()

    async def stop(self) -> None:
        for peer in self._peers.values():
            await peer.close()
        await self.authz.stop()
        await self.authn.stop()
        await self.audit.stop()

    def peer(self, path: str) -> Peer:
        """authn, asked with the certificate of ``path``."""
        if path not in self._peers:
            self._peers[path] = self.mesh.peer("authn", self.authn.port, path)
        return self._peers[path]

    async def bootstrap(self, token: str = BOOTSTRAP_TOKEN) -> authn_pb2.BootstrapResponse:
        self.first = await self.admin("Bootstrap", authn_pb2.BootstrapRequest(bootstrap_token=token), token="")
        return self.first

    async def authenticate(
        self,
        token: str | None,
        *,
        as_: str = CORE,
        address: str = "192.0.2.7",
        request_id: str = "",
        seconds: float = 10,
    ) -> authn_pb2.AuthenticateResponse:
        """Authenticate with a token credential, or with none."""
        request = authn_pb2.AuthenticateRequest(
            source=identity_pb2.Source(address=address, user_agent="test/1"), request_id=request_id
        )
        if token is not None:
            request.credential.token = token
        response: authn_pb2.AuthenticateResponse = await self.ask(as_, "Authenticate", request, seconds)
        return response

    async def issue(self, username: str, password: str, *, as_: str = CORE) -> authn_pb2.IssueTokenResponse:
        request = authn_pb2.IssueTokenRequest(
            password=authn_pb2.PasswordCredential(username=username, password=password),
            source=identity_pb2.Source(address="192.0.2.8"),
        )
        response: authn_pb2.IssueTokenResponse = await self.ask(as_, "IssueToken", request, 10)
        return response

    async def get(self, method: str, *, as_: str) -> Any:
        """GetJwks or GetPrincipalKeys."""
        return await self.ask(as_, method, getattr(authn_pb2, f"{method}Request")(), 10)

    async def ask(self, as_: str, method: str, request: Any, seconds: float = 10) -> Any:
        """One unary call of AuthnService."""
        return await self.peer(as_).unary(
            lambda channel: getattr(authn_pb2_grpc.AuthnServiceStub(channel), method),
            request,
            Deadline.after(seconds),
        )

    async def admin(
        self, method: str, request: Any, *, as_: str = OPERATOR, token: str | None = None, seconds: float = 10
    ) -> Any:
        """An administrative call; ``token``: ``None`` = the administrator's, "" = none."""
        if token is None:
            token = (await self.authenticate(self.first.admin_key, as_=as_)).principal_token
        return await self.peer(as_).unary(
            lambda channel: getattr(authn_pb2_grpc.CredentialAdminServiceStub(channel), method),
            request,
            Deadline.after(seconds),
            (("kubegate-principal-token", token),) if token else (),
        )

    async def create(self, identity: str, **fields: Any) -> authn_pb2.CreateApiKeyResponse:
        """A new key."""
        response: authn_pb2.CreateApiKeyResponse = await self.admin(
            "CreateApiKey", authn_pb2.CreateApiKeyRequest(identity=identity, **fields)
        )
        return response
