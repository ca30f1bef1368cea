"""The neighbours of authz for its contract tests: an authn that has keys, an audit that can be made to refuse."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.errors import Unavailable
from services.common.grpc_server import GrpcServer, current_call
from services.common.grpc_stream import serve_stream
from services.common.ids import uuid7
from services.common.principal_token import issue
from services.common.tls import server_name
from tests.fakes.mesh import Mesh
from tests.fakes.revocations import Leases

EVERYWHERE = identity_pb2.NamespaceScope(all=True)


class Keys(Leases, authn_pb2_grpc.AuthnServiceServicer):
    """Signs principal tokens and publishes the key, as authn does."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()

    async def GetPrincipalKeys(self, request: Any, context: Any) -> authn_pb2.GetPrincipalKeysResponse:
        jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key())) | {"kid": "k1"}
        return authn_pb2.GetPrincipalKeysResponse(jwks_json=json.dumps({"keys": [jwk]}))

    def token(
        self,
        *,
        azp: str = "service/mcp-core",
        roles: Sequence[str] = (),
        permissions: Sequence[str] = (),
        namespaces: identity_pb2.NamespaceScope = EVERYWHERE,
        tools: Sequence[str] = (),
        issuer: str = "kubegate",
        subject: str = "alice",
        tenant: str = "",
        groups: Sequence[str] = (),
        amr: Sequence[str] = (),
        actors: Sequence[tuple[str, str]] = (),
        now: datetime | None = None,
        key: Ed25519PrivateKey | None = None,
    ) -> str:
        """A principal token issued to ``azp``."""
        principal = identity_pb2.Principal(
            issuer=issuer,
            subject=subject,
            credential_id="key1",
            auth_type="api_key",
            roles=roles,
            permissions=permissions,
            namespaces=namespaces,
            tools=tools,
            tenant=tenant,
            groups=groups,
            amr=amr,
            actors=[identity_pb2.Actor(issuer=issuer, subject=subject) for issuer, subject in actors],
        )
        return issue(principal, azp, key or self._key, "k1", now=now or datetime.now(UTC), token_id=uuid7())


class Log(audit_pb2_grpc.AuditServiceServicer):
    """Keeps what is appended; refuses while ``away``."""

    def __init__(self) -> None:
        self.appended: list[audit_pb2.AppendRequest] = []
        self.away = False
        self.refuse: Callable[[audit_pb2.Event], bool] = lambda event: False

    async def AppendStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for response in serve_stream(
            request_iterator,
            self._append,
            response_type=audit_pb2.AppendStreamResponse,
            answer_type=audit_pb2.AppendAnswer,
        ):
            yield response

    async def _append(self, request: audit_pb2.AppendRequest) -> audit_pb2.AppendResponse:
        assert current_call().peer == "service/authz"
        if self.away or self.refuse(request.event):
            raise Unavailable("The audit service is away.")
        self.appended.append(request)
        return audit_pb2.AppendResponse(event_id=request.event.event_id, sequence=len(self.appended))

    def events(self, kind: audit_pb2.EventType.ValueType) -> list[audit_pb2.Event]:
        """The events of one type, in order."""
        return [each.event for each in self.appended if each.event.event_type == kind]


async def serve_authn(mesh: Mesh, keys: Keys, port: int = 0) -> tuple[GrpcServer, int]:
    """Serves the keys as authn; returns the server and its port."""
    server = GrpcServer(f"127.0.0.1:{port}", mesh.tls("service/authn"), list)
    server.add(authn_pb2_grpc.add_AuthnServiceServicer_to_server, keys, "kubegate.authn.v1.AuthnService")
    return server, await server.start()


async def serve_audit(mesh: Mesh, log: Log, port: int = 0) -> tuple[GrpcServer, int]:
    """Serves the log as audit; returns the server and its port."""
    server = GrpcServer(f"127.0.0.1:{port}", mesh.tls("service/audit"), list)
    server.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, log, "kubegate.audit.v1.AuditService")
    return server, await server.start()


def tls_keys(mesh: Mesh, path: str) -> dict[str, str]:
    """The ``tls`` block of a configuration file."""
    return {key: str(value) for key, value in mesh.tls(path).model_dump().items()}


def address(service: str, port: int) -> dict[str, str]:
    """The block of a configuration file that names another service."""
    return {"address": f"127.0.0.1:{port}", "server_name": server_name(service)}


def write_config(mesh: Mesh, directory: Path, policy: str, *, authn: int, audit: int) -> Path:
    """A configuration of authz with a policy beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "policy.yaml").write_text(policy)
    config = {
        "listen": "127.0.0.1:0",
        "tls": tls_keys(mesh, "service/authz"),
        "authn": address("authn", authn),
        "audit": address("audit", audit),
        "policy": "policy.yaml",
        "store": "authz.db",
        "address_file": "address",
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
