"""One audit service, wired as in production, with authn and authz played by the test."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2, lease_pb2
from services.audit.config import Config
from services.audit.wiring import main
from services.cli.pki import write_private
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.config import PeerAddress
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer, current_call
from services.common.ids import uuid7
from services.common.lease import serve_lease
from services.common.principal_token import issue
from services.common.tls import server_name
from tests.fakes.mesh import Mesh
from tests.fakes.revocations import Leases

TYPE = audit_pb2.EventType
SIGNING_KEY = Ed25519PrivateKey.generate()
TOKEN_KEY = Ed25519PrivateKey.generate()


class Authn(Leases, authn_pb2_grpc.AuthnServiceServicer):
    """Takes every credential for the subject that it names."""

    async def Authenticate(self, request: authn_pb2.AuthenticateRequest, context: Any) -> Any:
        made = token(request.credential.token, current_call().peer)
        return authn_pb2.AuthenticateResponse(principal_token=made)

    async def GetPrincipalKeys(self, request: Any, context: Any) -> authn_pb2.GetPrincipalKeysResponse:
        jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(TOKEN_KEY.public_key())) | {"kid": "k1"}
        return authn_pb2.GetPrincipalKeysResponse(jwks_json=json.dumps({"keys": [jwk]}))


class Authz(authz_pb2_grpc.AuthzServiceServicer):
    """Lets admin do everything, auditor read, and nobody anything else, until ``take_away``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.allowed: dict[str, Sequence[str]] = {"admin": ("read", "attest", "hold", "retire"), "auditor": ("read",)}
        self.revision = 1

    def take_away(self, subject: str) -> None:
        """Policy changes: somebody has no binding any more."""
        del self.allowed[subject]
        self.revision += 1

    async def Check(self, request: authz_pb2.CheckRequest, context: Any) -> authz_pb2.CheckResponse:
        claims = jwt.decode(request.principal_token, options={"verify_signature": False})
        action = f"{request.action.group}:{request.action.resource}:{request.action.verb}"
        self.asked.append((current_call().peer, action))
        if action not in [f"kubegate:audit:{verb}" for verb in self.allowed.get(claims["sub"], ())]:
            denied = authz_pb2.Denied(explanation="no grant")
            return authz_pb2.CheckResponse(denied=denied, lease_revision=self.revision)
        response = authz_pb2.CheckResponse(
            allowed=authz_pb2.Allowed(rule_id="role:admin#1"), lease_revision=self.revision
        )
        response.allowed.cacheable_until.FromSeconds(claims["exp"])
        return response

    async def WatchPolicy(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in serve_lease(request_iterator, self._newest):
            yield response

    async def _newest(self, _known: int) -> authz_pb2.WatchPolicyResponse:
        return authz_pb2.WatchPolicyResponse(answer=lease_pb2.LeaseAnswer(revision=self.revision))


def token(subject: str, peer: str, *, ago: float = 0, tenant: str = "") -> str:
    principal = identity_pb2.Principal(
        issuer="kubegate", subject=subject, credential_id="c1", auth_type="api_key", tenant=tenant
    )
    now = datetime.now(UTC) - timedelta(seconds=ago)
    return issue(principal, peer, TOKEN_KEY, "k1", now=now, token_id=uuid7())


def event(**changes: Any) -> audit_pb2.Event:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC))
    values: dict[str, Any] = {
        "event_id": uuid7(),
        "timestamp": stamp,
        "event_type": TYPE.EVENT_TYPE_MCP_REQUEST,
        "action": "list_pods",
        "result": audit_pb2.RESULT_SUCCESS,
        "user": "whoever",
        "request_id": "req-1",
    }
    return audit_pb2.Event(**(values | changes))


class Rig:
    """One audit service and its surroundings."""

    def __init__(self, mesh: Mesh, directory: Path) -> None:
        self.mesh, self.directory = mesh, directory
        self.authz = Authz()
        self._servers: list[GrpcServer] = []
        self._peers: dict[str, Peer] = {}
        self._task: asyncio.Task[None] | None = None
        self._ports = {"authn": 0, "authz": 0}
        self.port = 0
        self.tenant = ""
        """Of whoever reads."""
        self.signing_key = SIGNING_KEY
        self.previous: Path | None = None
        self.witnesses: list[dict[str, Any]] = []
        self.retention_days: int | None = None
        self.listen = "127.0.0.1:0"
        self.database = ""
        """URL of a PostgreSQL database to use instead of a SQLite file."""

    async def serve_surroundings(self) -> None:
        authn = Authn()
        for name, servicer, register, service in (
            ("authn", authn, authn_pb2_grpc.add_AuthnServiceServicer_to_server, "kubegate.authn.v1.AuthnService"),
            ("authz", self.authz, authz_pb2_grpc.add_AuthzServiceServicer_to_server, "kubegate.authz.v1.AuthzService"),
        ):
            listen = f"127.0.0.1:{self._ports[name]}"
            server = GrpcServer(listen, self.mesh.tls(f"service/{name}"), list)
            server.add(register, servicer, service)
            self._ports[name] = await server.start()
            self._servers.append(server)

    def config(self, **changes: Any) -> Config:
        key = self.directory / "signing.key"
        if not key.exists():
            formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            write_private(self.directory / "mask.key", b"mask")
            write_private(key, self.signing_key.private_bytes(*formats, serialization.NoEncryption()))
        values: dict[str, Any] = {
            "listen": self.listen,
            "tls": self.mesh.tls("service/audit"),
            "store": self.directory / "audit.db",
            "mirror": self.directory / "audit.log",
            "checkpoint": self.directory / "checkpoint",
            "signing_key_file": key,
            "mask_key_file": self.directory / "mask.key",
            "previous_signing_key_file": self.previous,
            "witnesses": self.witnesses,
            "retention_days": self.retention_days,
            "address_file": self.directory / "address",
        }
        if self.database:
            write_private(self.directory / "database.url", self.database.encode())
            values |= {"store": None, "database_url_file": self.directory / "database.url"}
        for name, port in self._ports.items():
            values[name] = PeerAddress(address=f"127.0.0.1:{port or 1}", server_name=server_name(name))
        return Config(**(values | changes))

    async def start(self) -> None:
        address = self.directory / "address"
        address.unlink(missing_ok=True)
        self._task = asyncio.create_task(main(self.config()))
        while not address.exists():
            await asyncio.sleep(0.01)
            if self._task.done():
                await self._task
        self.port = int(address.read_text().rpartition(":")[2])

    async def call(self, method: str, request: Any, subject: str = "admin", as_: str = "operator/alice") -> Any:
        """The answer of a unary method."""
        metadata = ((PRINCIPAL_TOKEN_METADATA, token(subject, as_, tenant=self.tenant)),) if subject else ()
        return await self.peer(as_).unary(
            lambda channel: getattr(audit_pb2_grpc.AuditServiceStub(channel), method),
            request,
            Deadline.after(10),
            metadata,
        )

    async def parts(self, method: str, request: Any, subject: str = "admin", as_: str = "operator/alice") -> list[Any]:
        """The messages that a streaming method answers with."""
        metadata = ((PRINCIPAL_TOKEN_METADATA, token(subject, as_, tenant=self.tenant)),) if subject else ()
        try:
            return [each async for each in getattr(self.stub(as_), method)(request, timeout=10, metadata=metadata)]
        except aio.AioRpcError as error:
            raise self.peer(as_).error(error) from None

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for peer in self._peers.values():
            await peer.close()
        self._peers = {}

    async def stop_surroundings(self) -> None:
        for server in self._servers:
            await server.stop(0)

    def peer(self, as_: str) -> Peer:
        if as_ not in self._peers:
            self._peers[as_] = self.mesh.peer("audit", self.port, as_)
        return self._peers[as_]

    def stub(self, as_: str) -> Any:
        return audit_pb2_grpc.AuditServiceStub(self.peer(as_).channel())

    async def append(self, as_: str, message: audit_pb2.Event, principal_token: str = "") -> int:
        request = audit_pb2.AppendRequest(event=message, principal_token=principal_token)
        response: audit_pb2.AppendResponse = await self.peer(as_).unary(
            lambda channel: audit_pb2_grpc.AuditServiceStub(channel).Append, request, Deadline.after(10)
        )
        assert response.event_id == message.event_id
        return response.sequence

    async def query(self, subject: str = "admin", as_: str = "operator/alice", **request: Any) -> list[dict[str, Any]]:
        metadata = ((PRINCIPAL_TOKEN_METADATA, token(subject, as_, tenant=self.tenant)),) if subject else ()
        found: list[dict[str, Any]] = []
        try:
            call = self.stub(as_).Query(audit_pb2.QueryRequest(**request), timeout=10, metadata=metadata)
            async for response in call:
                found += [json.loads(record.canonical_json) for record in response.records]
        except aio.AioRpcError as error:
            raise self.peer(as_).error(error) from None
        return found

    def write_home(self, home: Path) -> None:
        """What the CLI needs of a home whose audit directory is this rig's."""
        tls = self.mesh.tls("operator/alice")
        for name, data in (
            ("operator/tls.crt", tls.cert_file.read_bytes()),
            ("operator/tls.key", tls.key_file.read_bytes()),
            ("operator/ca.crt", tls.ca_file.read_bytes()),
            ("credentials/admin.key", b"admin"),
        ):
            (home / name).parent.mkdir(exist_ok=True)
            write_private(home / name, data)
        services = {name: f"127.0.0.1:{port}" for name, port in {**self._ports, "audit": self.port}.items()}
        (home / "endpoints.json").write_text(json.dumps({"services": services}))
        config = self.config().model_dump(mode="json", exclude_none=True)
        (self.directory / "config.yaml").write_text(yaml.safe_dump(config))

    async def record(self, sequence: int) -> dict[str, Any]:
        lines = (self.directory / "audit.log").read_text().splitlines()
        record: dict[str, Any] = json.loads(lines[sequence])
        return record

    async def health(self) -> int:
        stub = health_pb2_grpc.HealthStub(self.peer("operator/alice").channel())
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        status: int = answer.status
        return status
