"""The core's adapters against real mTLS gRPC servers: streams, errors, and healing after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from services.common.audit_client import AuditClient
from services.common.deadline import Deadline
from services.common.errors import (
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.grpc_stream import serve_stream
from services.common.ids import uuid7
from services.mcp_core.adapters import health, peers
from services.mcp_core.adapters.audit import AuditAdapter
from services.mcp_core.adapters.authn import AuthnAdapter
from services.mcp_core.adapters.authz import AuthzAdapter
from services.mcp_core.model import (
    Action,
    Allowed,
    Caller,
    Credential,
    DecisionNote,
    Denied,
    Event,
    Kind,
    PasswordGrant,
    Phase,
    Principal,
    RequestContext,
    Result,
    Scope,
    Source,
)
from services.mcp_core.tools.base import Permission
from tests.fakes.mesh import Mesh

CORE = "service/mcp-core"
PODS = Permission("list", "", "pods")


class Authn(authn_pb2_grpc.AuthnServiceServicer):
    """Streams only; `error` is raised for every credential but "good"."""

    def __init__(self) -> None:
        self.error: Exception = Unauthenticated("The credential is not valid.")
        self.requests: list[authn_pb2.AuthenticateRequest] = []

    async def AuthenticateStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        types: Any = {
            "response_type": authn_pb2.AuthenticateStreamResponse,
            "answer_type": authn_pb2.AuthenticateAnswer,
        }
        async for response in serve_stream(request_iterator, self._authenticate, **types):
            yield response

    async def _authenticate(self, request: authn_pb2.AuthenticateRequest) -> authn_pb2.AuthenticateResponse:
        self.requests.append(request)
        if request.credential.token == "late":
            await asyncio.Event().wait()
        if request.credential.token != "good":
            raise self.error
        response = authn_pb2.AuthenticateResponse(principal_token="token", event_id="event")
        response.principal.issuer, response.principal.subject = "kubegate", "alice"
        response.principal.auth_type = "api_key"
        return response

    async def IssueToken(self, request: Any, context: Any) -> authn_pb2.IssueTokenResponse:
        if request.password.password != "right":
            raise Unauthenticated("wrong")
        return authn_pb2.IssueTokenResponse(access_token="a.b.c", expires_in=900)

    async def GetJwks(self, request: Any, context: Any) -> authn_pb2.GetJwksResponse:
        return authn_pb2.GetJwksResponse(jwks_json='{"keys":[]}')


class Authz(authz_pb2_grpc.AuthzServiceServicer):
    """Allows in "default", denies elsewhere, says nothing at all in "silent"."""

    async def CheckStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        types: Any = {"response_type": authz_pb2.CheckStreamResponse, "answer_type": authz_pb2.CheckAnswer}
        async for response in serve_stream(request_iterator, self._check, **types):
            yield response

    async def _check(self, request: authz_pb2.CheckRequest) -> authz_pb2.CheckResponse:
        response = authz_pb2.CheckResponse(policy_revision="rev", event_id="event")
        if request.action.namespace == "default":
            assert request.action.attributes.replicas == 3
            response.allowed.rule_id, response.allowed.role = "role:viewer#1", "viewer"
        elif request.action.namespace == "refused":
            raise PermissionDenied("service/mcp-core may not ask")
        elif request.action.namespace != "silent":
            response.denied.reason = authz_pb2.DENIAL_REASON_CREDENTIAL_CAP
            response.denied.explanation = "not allowed"
            response.denied.missing.permission, response.denied.missing.namespace = "k8s:pods:list", "x"
        return response

    async def ListAllowed(self, request: Any, context: Any) -> authz_pb2.ListAllowedResponse:
        response = authz_pb2.ListAllowedResponse()
        for action in request.actions:
            scope = response.scopes.add(all=action.verb == "list")
            scope.patterns.extend([] if scope.all else ["dev-*"])
        return response


class Audit(audit_pb2_grpc.AuditServiceServicer):
    def __init__(self) -> None:
        self.requests: list[audit_pb2.AppendRequest] = []

    async def AppendStream(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        types: Any = {"response_type": audit_pb2.AppendStreamResponse, "answer_type": audit_pb2.AppendAnswer}
        async for response in serve_stream(request_iterator, self._append, **types):
            yield response

    async def _append(self, request: audit_pb2.AppendRequest) -> audit_pb2.AppendResponse:
        self.requests.append(request)
        return audit_pb2.AppendResponse(event_id=request.event.event_id, sequence=len(self.requests))


class Others:
    """The three services, each on its own port with its own certificate."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        # Unary twins are left out: the core's path is the streams.
        self.authn = Authn()
        self.authz = Authz()
        self.audit = Audit()
        self.ports: dict[str, int] = {}
        self.problems: list[str] = []
        self._servers: dict[str, GrpcServer] = {}

    async def start(self, name: str) -> None:
        known: dict[str, tuple[Any, object, Any]] = {
            "authn": (authn_pb2_grpc.add_AuthnServiceServicer_to_server, self.authn, authn_pb2),
            "authz": (authz_pb2_grpc.add_AuthzServiceServicer_to_server, self.authz, authz_pb2),
            "audit": (audit_pb2_grpc.add_AuditServiceServicer_to_server, self.audit, audit_pb2),
        }
        register, servicer, module = known[name]
        service = module.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"].full_name
        listen = f"127.0.0.1:{self.ports.get(name, 0)}"
        server = GrpcServer(listen, self.mesh.tls(f"service/{name}"), lambda: self.problems)
        server.add(register, servicer, service)
        self.ports[name] = await server.start()
        self._servers[name] = server

    async def stop(self, name: str) -> None:
        await self._servers.pop(name).stop(0)

    async def stop_all(self) -> None:
        for name in list(self._servers):
            await self.stop(name)

    def peer(self, name: str) -> Peer:
        return self.mesh.peer(name, self.ports[name], CORE)


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[Others]:
    others = Others(Mesh(tmp_path))
    for name in ("authn", "authz", "audit"):
        await others.start(name)
    yield others
    await others.stop_all()


def context(seconds: float = 10.0) -> RequestContext:
    return RequestContext(uuid7(), "1" * 32, "mcp", Source("192.0.2.1", "test"), Deadline.after(seconds))


def caller() -> Caller:
    return Caller(context(), Principal("kubegate", "alice"), "token", "authn-event")


@pytest.mark.req("I2.8", "I2.3")
async def test_authn_over_its_stream(others: Others) -> None:
    peer = others.peer("authn")
    adapter = AuthnAdapter(peer)
    asked = context()
    found = await adapter.authenticate(Credential("good"), asked)
    assert (found.principal.issuer, found.principal.subject) == ("kubegate", "alice")
    assert (found.token, found.authn_event_id) == ("token", "event")
    assert others.authn.requests[0].request_id == asked.request_id
    assert others.authn.requests[0].source.address == "192.0.2.1"
    with pytest.raises(Unauthenticated):
        await adapter.authenticate(Credential("bad"), context())
    assert (await adapter.issue_token(PasswordGrant("admin", "right"), context())).expires_in == 900
    with pytest.raises(Unauthenticated):
        await adapter.issue_token(PasswordGrant("admin", "wrong"), context())
    assert await adapter.jwks(Deadline.after(5)) == b'{"keys":[]}'
    assert adapter.known_jwks() is None, "nothing is known without a lease"
    await adapter.close()
    await peer.close()


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (InvalidArgument("too long"), Unauthenticated),
        (ResourceExhausted("busy", retry_after=2), ResourceExhausted),
        (Unavailable("starting"), Unavailable),
        (PermissionDenied("not you"), Internal),
        (ValueError("boom"), Internal),
    ],
)
async def test_what_an_error_of_a_peer_means_to_the_client(
    others: Others, sent: Exception, seen: type[Exception]
) -> None:
    others.authn.error = sent
    peer = others.peer("authn")
    adapter = AuthnAdapter(peer)
    with pytest.raises(seen):
        await adapter.authenticate(Credential("bad"), context())
    await adapter.close()
    await peer.close()


@pytest.mark.req("I2.6")
async def test_a_peer_that_does_not_answer_counts_as_away(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEER_SECONDS", 0.3)
    peer = others.peer("authn")
    adapter = AuthnAdapter(peer)
    with pytest.raises(Unavailable) as caught:
        await adapter.authenticate(Credential("late"), context())
    assert caught.value.retry_after
    assert (await adapter.authenticate(Credential("good"), context())).principal.subject == "alice"
    await adapter.close()
    await peer.close()


@pytest.mark.req("I2.8", "R10")
async def test_authz_over_its_stream(others: Others) -> None:
    peer = others.peer("authz")
    adapter = AuthzAdapter(peer)

    def asked(namespace: str) -> Action:
        return Action("test", PODS, "list_pods", namespace, replicas=3)

    assert await adapter.check(caller(), asked("default")) == Allowed("role:viewer#1", "viewer", "rev", "event")
    denied = await adapter.check(caller(), asked("prod"))
    assert denied == Denied("credential_cap", "not allowed", "k8s:pods:list", "x", "rev", "event")
    assert isinstance(await adapter.check(caller(), asked("silent")), Denied), "no answer is no permission"
    with pytest.raises(Internal):
        await adapter.check(caller(), asked("refused"))
    scopes = await adapter.list_allowed(caller(), [asked(""), Action("test", Permission("logs", "", "pods"), "x")])
    assert scopes.each == (Scope(all=True), Scope(patterns=("dev-*",)))
    await adapter.close()
    await peer.close()


@pytest.mark.req("I2.8", "R22")
async def test_audit_over_its_stream(others: Others) -> None:
    peer = others.peer("audit")
    client = AuditClient(peer)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    event = Event(
        event_id=uuid7(),
        timestamp=now,
        kind=Kind.MCP_REQUEST,
        user="kubegate:alice",
        action="look",
        resource="pods",
        namespace="default",
        result=Result.UNKNOWN,
        error="",
        metadata={"auth_type": "api_key"},
        duration_ms=1.5,
        tenant="",
        source=Source("192.0.2.1"),
        request_id="req",
        trace_id="1" * 32,
        phase=Phase.INTENT,
        decision=DecisionNote(True, "role:viewer#1", "rev", "k8s:pods:list"),
        deadline=now,
    )
    await AuditAdapter(client).append(event, "token", Deadline.after(5))
    (sent,) = others.audit.requests
    assert sent.principal_token == "token"
    assert sent.event.event_id == event.event_id
    assert sent.event.phase == audit_pb2.PHASE_INTENT
    assert sent.event.result == audit_pb2.RESULT_UNKNOWN
    assert sent.event.decision.rule == "role:viewer#1"
    assert sent.event.deadline.seconds == int(now.timestamp())
    await client.close()
    await peer.close()


@pytest.mark.req("I2.6", "R8")
async def test_a_restarted_peer_is_used_again(others: Others) -> None:
    peer = others.peer("authn")
    adapter = AuthnAdapter(peer)
    await adapter.authenticate(Credential("good"), context())
    await others.stop("authn")
    with pytest.raises(Unavailable, match="authn"):
        await adapter.authenticate(Credential("good"), context(2))
    with pytest.raises(Unavailable, match="authn"):
        await health.check(peer, Deadline.after(2))
    await others.start("authn")
    for _ in range(100):
        try:
            await adapter.authenticate(Credential("good"), context())
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    await health.check(peer, Deadline.after(5))
    await adapter.close()
    await peer.close()


async def test_readiness_repeats_what_the_peer_says_is_missing(others: Others) -> None:
    peer = others.peer("authz")
    others.problems.append("waiting for the audit service")
    with pytest.raises(Unavailable, match="waiting for the audit service"):
        await health.check(peer, Deadline.after(5))
    await peer.close()
