"""The Authenticator port over authn's stream; the credential goes in, only its principal comes out."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.clock import Clock, SystemClock
from services.common.deadline import Deadline
from services.common.errors import DomainError, InvalidArgument, PermissionDenied, Unauthenticated
from services.common.grpc_client import Peer
from services.common.grpc_stream import StreamClient
from services.common.lease import Lease
from services.mcp_core.adapters.peers import away_or_refused, question_deadline, source
from services.mcp_core.adapters.principal_cache import PrincipalCache, Proven
from services.mcp_core.model import (
    AccessToken,
    AuthorizationServer,
    Caller,
    Credential,
    Grant,
    PasswordGrant,
    Principal,
    RequestContext,
    TokenExchange,
)


class AuthnAdapter:
    """Asks authn; one stream for all requests. What was proven is remembered under a lease (R12): run ``keep``."""

    def __init__(self, peer: Peer, clock: Clock | None = None) -> None:
        self._peer = peer
        self._clock = clock or SystemClock()
        self._cache = PrincipalCache(self._clock)
        self._lease = Lease(
            peer,
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).WatchRevocations,
            authn_pb2.WatchRevocationsRequest,
            self._apply,
            self._clock,
        )
        self._cache.lease = self._lease
        self._jwks: tuple[int, bytes] | None = None
        """The key set, and the revision that was known before it was asked for."""
        self._stream: StreamClient[authn_pb2.AuthenticateRequest, authn_pb2.AuthenticateResponse] = StreamClient(
            peer,
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).AuthenticateStream,
            authn_pb2.AuthenticateStreamRequest,
            authn_pb2.AuthenticateItem,
        )

    def _apply(self, response: authn_pb2.WatchRevocationsResponse) -> None:
        if response.reset:
            self._jwks = None
        self._cache.apply(response)

    async def keep(self) -> None:
        """Keeps the lease until cancelled; without it nothing is remembered."""
        await self._lease.keep()

    async def authenticate(self, credential: Credential, context: RequestContext) -> Caller:
        key = self._cache.key(credential)
        known = self._cache.find(key, max(context.deadline.remaining(), context.longest))
        if known is not None:
            return Caller(
                context,
                known.principal,
                known.token,
                known.event_id,
                True,
                known.obtainable,
                key,
            )
        asked_at = self._clock.monotonic()
        request = authn_pb2.AuthenticateRequest(
            credential=_message(credential),
            source=source(context.source),
            request_id=context.request_id,
            client_certificate=credential.certificate,
        )
        try:
            answer = await self._stream.ask(request, question_deadline(context.deadline), context.request_id)
        except DomainError as error:
            raise _refusal(error) from None
        proven = answer.principal
        principal = Principal(
            issuer=proven.issuer,
            subject=proven.subject,
            credential_id=proven.credential_id,
            auth_type=proven.auth_type,
            tenant=proven.tenant,
            digest=_digest(proven),
        )
        ends = proven.expires_at.ToDatetime(UTC) if proven.HasField("expires_at") else None
        obtainable = tuple((each.scope, each.role) for each in answer.obtainable)
        ends_with = tuple(proven.ends_with)
        known = Proven(principal, answer.principal_token, answer.event_id, ends, obtainable, ends_with)
        self._cache.keep(key, known, asked_at=asked_at, revision=answer.revocation_revision)
        return Caller(
            context,
            principal,
            answer.principal_token,
            answer.event_id,
            obtainable=obtainable,
            proof=key,
        )

    def vouches(self, caller: Caller) -> bool:
        return self._cache.vouches(caller.proof, caller.principal)

    async def issue_token(self, grant: Grant, context: RequestContext) -> AccessToken:
        request = authn_pb2.IssueTokenRequest(source=source(context.source), request_id=context.request_id)
        if isinstance(grant, PasswordGrant):
            request.password.username, request.password.password = grant.username, grant.password
            request.password.otp = grant.otp
        else:
            request.exchange.CopyFrom(authn_pb2.TokenExchange(**asdict(grant)))
        try:
            answer = await self._peer.unary(
                lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).IssueToken,
                request,
                question_deadline(context.deadline),
                (("request-id", context.request_id),),
            )
        except DomainError as error:
            if isinstance(grant, TokenExchange) and isinstance(error, InvalidArgument | PermissionDenied):
                raise type(error)(error.public_message) from None
            raise _refusal(error) from None
        exchanged = {"issued_token_type": answer.issued_token_type, "scope": answer.scope}
        return AccessToken(answer.access_token, answer.expires_in, exchanged if answer.issued_token_type else {})

    async def authorization_servers(self, deadline: Deadline) -> tuple[AuthorizationServer, ...]:
        try:
            answer = await self._peer.unary(
                lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).GetAuthorizationServers,
                authn_pb2.GetAuthorizationServersRequest(),
                question_deadline(deadline),
            )
        except DomainError as error:
            raise _refusal(error) from None
        return tuple(
            AuthorizationServer(each.issuer, tuple(each.scopes), tuple(each.initial_scopes)) for each in answer.servers
        )

    def known_jwks(self) -> bytes | None:
        known = self._jwks
        return known[1] if known is not None and self._lease.fresh() and known[0] == self._lease.revision else None

    async def jwks(self, deadline: Deadline) -> bytes:
        revision = self._lease.revision
        try:
            answer = await self._peer.unary(
                lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).GetJwks,
                authn_pb2.GetJwksRequest(),
                question_deadline(deadline),
            )
        except DomainError as error:
            raise _refusal(error) from None
        jwks = str(answer.jwks_json).encode()
        self._jwks = revision, jwks
        return jwks

    async def close(self) -> None:
        await self._stream.close()


def _message(credential: Credential) -> authn_pb2.Credential:
    if credential.token:
        return authn_pb2.Credential(token=credential.token)
    return authn_pb2.Credential(certificate=authn_pb2.CertificateCredential())


def _digest(principal: identity_pb2.Principal) -> bytes:
    """All that authn says about a principal but when it was proven: a condition that reads that is not cached."""
    whole = identity_pb2.Principal()
    whole.CopyFrom(principal)
    whole.ClearField("auth_time")
    return hashlib.sha256(whole.SerializeToString(deterministic=True)).digest()


def _refusal(error: DomainError) -> DomainError:
    if isinstance(error, InvalidArgument):
        # A credential of impossible form is a wrong credential: one status, one sentence.
        return Unauthenticated("The credential is not valid.")
    return away_or_refused("authn", error)
