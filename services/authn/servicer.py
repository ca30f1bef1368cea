"""protobuf <-> domain for both services of authn. No decision is made here."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.authn.admin import CredentialAdmin
from services.authn.bootstrap import Bootstrap
from services.authn.exchange import ACCESS_TOKEN
from services.authn.messages import (
    api_key_to_proto,
    credential_from_proto,
    ends_to_proto,
    exchange_from_proto,
    grant_from_proto,
    new_api_key_from_proto,
    principal_to_proto,
    server_to_proto,
    source_from_proto,
)
from services.authn.model import Secret, TrustedIssuer
from services.authn.service import AuthnService
from services.common.call import Call
from services.common.grpc_server import current_call
from services.common.grpc_stream import serve_stream
from services.common.lease import serve_lease

MAX_SECONDS = 100 * 365 * 86_400
"""What a longer time is taken for; the service refuses it."""


def _call(request_id: str) -> Call:
    call = current_call()
    return replace(call, request_id=request_id) if request_id else call


class AuthnServicer(authn_pb2_grpc.AuthnServiceServicer):
    """kubegate.authn.v1.AuthnService."""

    def __init__(
        self,
        service: AuthnService,
        access_jwks: Callable[[], str],
        principal_jwks: Callable[[], str],
        issuers: Callable[[], Sequence[TrustedIssuer]],
    ) -> None:
        self._service = service
        self._issuers = issuers
        self._access_jwks = access_jwks
        self._principal_jwks = principal_jwks

    async def Authenticate(
        self, request: authn_pb2.AuthenticateRequest, context: Any
    ) -> authn_pb2.AuthenticateResponse:
        return await self._authenticate(request)

    async def AuthenticateStream(
        self, request_iterator: AsyncIterator[authn_pb2.AuthenticateStreamRequest], context: Any
    ) -> AsyncIterator[authn_pb2.AuthenticateStreamResponse]:
        async for response in serve_stream(
            request_iterator,
            self._authenticate,
            response_type=authn_pb2.AuthenticateStreamResponse,
            answer_type=authn_pb2.AuthenticateAnswer,
        ):
            yield response

    async def _authenticate(self, request: authn_pb2.AuthenticateRequest) -> authn_pb2.AuthenticateResponse:
        proof = await self._service.authenticate(
            credential_from_proto(request.credential, request.client_certificate),
            source_from_proto(request.source),
            _call(request.request_id),
        )
        return authn_pb2.AuthenticateResponse(
            principal=principal_to_proto(proof.principal),
            principal_token=proof.token,
            event_id=proof.event_id,
            revocation_revision=proof.revision,
            obtainable=[authn_pb2.ScopeRole(scope=scope, role=role) for scope, role in proof.principal.obtainable],
        )

    async def GetAuthorizationServers(
        self, request: authn_pb2.GetAuthorizationServersRequest, context: Any
    ) -> authn_pb2.GetAuthorizationServersResponse:
        servers = [server_to_proto(issuer) for issuer in self._issuers() if issuer.for_people]
        return authn_pb2.GetAuthorizationServersResponse(servers=servers)

    async def IssueToken(self, request: authn_pb2.IssueTokenRequest, context: Any) -> authn_pb2.IssueTokenResponse:
        source, call = source_from_proto(request.source), _call(request.request_id)
        others = request.HasField("password") or request.HasField("client")
        if request.HasField("exchange") and not others and not request.refresh_token:
            issued = await self._service.exchange_token(exchange_from_proto(request.exchange), source, call)
        elif request.refresh_token and not others and not request.HasField("exchange"):
            issued = await self._service.refresh_token(Secret(request.refresh_token), source, call)
        else:
            issued = await self._service.issue_token(grant_from_proto(request), source, call)
        return authn_pb2.IssueTokenResponse(
            access_token=issued.token.reveal(),
            expires_in=issued.lifetime,
            event_id=issued.event_id,
            refresh_token=issued.refresh.reveal(),
            issued_token_type=ACCESS_TOKEN if request.HasField("exchange") else "",
            scope=issued.scope,
        )

    async def Introspect(self, request: authn_pb2.IntrospectRequest, context: Any) -> authn_pb2.IntrospectResponse:
        proof = await self._service.introspect(
            Secret(request.token), source_from_proto(request.source), _call(request.request_id)
        )
        if proof is None:
            return authn_pb2.IntrospectResponse()
        return authn_pb2.IntrospectResponse(
            active=True, principal=principal_to_proto(proof.principal), event_id=proof.event_id
        )

    async def Revoke(self, request: authn_pb2.RevokeRequest, context: Any) -> authn_pb2.RevokeResponse:
        await self._service.revoke(Secret(request.token), source_from_proto(request.source), _call(request.request_id))
        return authn_pb2.RevokeResponse()

    async def WatchRevocations(
        self, request_iterator: AsyncIterator[authn_pb2.WatchRevocationsRequest], context: Any
    ) -> AsyncIterator[authn_pb2.WatchRevocationsResponse]:
        async for response in serve_lease(request_iterator, self._ends_since):
            yield response

    async def _ends_since(self, known: int) -> authn_pb2.WatchRevocationsResponse:
        return ends_to_proto(await self._service.ends_since(known))

    async def GetJwks(self, request: authn_pb2.GetJwksRequest, context: Any) -> authn_pb2.GetJwksResponse:
        return authn_pb2.GetJwksResponse(jwks_json=self._access_jwks())

    async def GetPrincipalKeys(
        self, request: authn_pb2.GetPrincipalKeysRequest, context: Any
    ) -> authn_pb2.GetPrincipalKeysResponse:
        return authn_pb2.GetPrincipalKeysResponse(jwks_json=self._principal_jwks())


class CredentialAdminServicer(authn_pb2_grpc.CredentialAdminServiceServicer):
    """kubegate.authn.v1.CredentialAdminService."""

    def __init__(self, admin: CredentialAdmin, bootstrap: Bootstrap) -> None:
        self._admin = admin
        self._bootstrap = bootstrap

    async def Bootstrap(self, request: authn_pb2.BootstrapRequest, context: Any) -> authn_pb2.BootstrapResponse:
        first = await self._bootstrap.run(Secret(request.bootstrap_token), current_call())
        return authn_pb2.BootstrapResponse(
            admin_key=first.admin_key.reveal(),
            viewer_key=first.viewer_key.reveal(),
            admin_password=first.admin_password.reveal(),
        )

    async def CreateApiKey(
        self, request: authn_pb2.CreateApiKeyRequest, context: Any
    ) -> authn_pb2.CreateApiKeyResponse:
        record, key, unknown = await self._admin.create(new_api_key_from_proto(request), current_call())
        return authn_pb2.CreateApiKeyResponse(api_key=api_key_to_proto(record), key=key.reveal(), unknown_roles=unknown)

    async def ListApiKeys(self, request: authn_pb2.ListApiKeysRequest, context: Any) -> authn_pb2.ListApiKeysResponse:
        keys = await self._admin.list(current_call())
        return authn_pb2.ListApiKeysResponse(api_keys=[api_key_to_proto(key) for key in keys])

    async def SetApiKeyEnabled(
        self, request: authn_pb2.SetApiKeyEnabledRequest, context: Any
    ) -> authn_pb2.SetApiKeyEnabledResponse:
        record = await self._admin.set_enabled(request.id, request.enabled, current_call())
        return authn_pb2.SetApiKeyEnabledResponse(api_key=api_key_to_proto(record))

    async def RotateApiKey(
        self, request: authn_pb2.RotateApiKeyRequest, context: Any
    ) -> authn_pb2.RotateApiKeyResponse:
        record, key, replaced = await self._admin.rotate(
            request.id, timedelta(seconds=request.overlap_seconds), current_call()
        )
        return authn_pb2.RotateApiKeyResponse(
            api_key=api_key_to_proto(record), key=key.reveal(), replaced=api_key_to_proto(replaced)
        )

    async def PruneApiKeys(
        self, request: authn_pb2.PruneApiKeysRequest, context: Any
    ) -> authn_pb2.PruneApiKeysResponse:
        unused = timedelta(seconds=min(request.unused_seconds, MAX_SECONDS))
        keys = await self._admin.prune(unused, request.dry_run, current_call())
        return authn_pb2.PruneApiKeysResponse(api_keys=[api_key_to_proto(key) for key in keys])

    async def DeleteApiKey(
        self, request: authn_pb2.DeleteApiKeyRequest, context: Any
    ) -> authn_pb2.DeleteApiKeyResponse:
        await self._admin.delete(request.id, current_call())
        return authn_pb2.DeleteApiKeyResponse()
