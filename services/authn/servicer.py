"""protobuf <-> domain for both services of authn. No decision is made here."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.authn.admin import CredentialAdmin
from services.authn.bootstrap import Bootstrap
from services.authn.messages import (
    api_key_to_proto,
    credential_from_proto,
    new_api_key_from_proto,
    password_from_proto,
    principal_to_proto,
    source_from_proto,
)
from services.authn.model import Secret
from services.authn.service import AuthnService
from services.common.call import Call
from services.common.grpc_server import current_call
from services.common.grpc_stream import serve_stream


def _call(request_id: str) -> Call:
    call = current_call()
    return replace(call, request_id=request_id) if request_id else call


class AuthnServicer(authn_pb2_grpc.AuthnServiceServicer):
    """kubegate.authn.v1.AuthnService."""

    def __init__(self, service: AuthnService, access_jwks: str, principal_jwks: str) -> None:
        self._service = service
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
        principal, token, event_id = await self._service.authenticate(
            credential_from_proto(request.credential), source_from_proto(request.source), _call(request.request_id)
        )
        return authn_pb2.AuthenticateResponse(
            principal=principal_to_proto(principal), principal_token=token, event_id=event_id
        )

    async def IssueToken(self, request: authn_pb2.IssueTokenRequest, context: Any) -> authn_pb2.IssueTokenResponse:
        credential = password_from_proto(request.password) if request.HasField("password") else None
        token, lifetime, event_id = await self._service.issue_token(
            credential, source_from_proto(request.source), _call(request.request_id)
        )
        return authn_pb2.IssueTokenResponse(access_token=token.reveal(), expires_in=lifetime, event_id=event_id)

    async def GetJwks(self, request: authn_pb2.GetJwksRequest, context: Any) -> authn_pb2.GetJwksResponse:
        return authn_pb2.GetJwksResponse(jwks_json=self._access_jwks)

    async def GetPrincipalKeys(
        self, request: authn_pb2.GetPrincipalKeysRequest, context: Any
    ) -> authn_pb2.GetPrincipalKeysResponse:
        return authn_pb2.GetPrincipalKeysResponse(jwks_json=self._principal_jwks)


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
        record, key = await self._admin.create(new_api_key_from_proto(request), current_call())
        return authn_pb2.CreateApiKeyResponse(api_key=api_key_to_proto(record), key=key.reveal())

    async def ListApiKeys(self, request: authn_pb2.ListApiKeysRequest, context: Any) -> authn_pb2.ListApiKeysResponse:
        keys = await self._admin.list(current_call())
        return authn_pb2.ListApiKeysResponse(api_keys=[api_key_to_proto(key) for key in keys])

    async def SetApiKeyEnabled(
        self, request: authn_pb2.SetApiKeyEnabledRequest, context: Any
    ) -> authn_pb2.SetApiKeyEnabledResponse:
        record = await self._admin.set_enabled(request.id, request.enabled, current_call())
        return authn_pb2.SetApiKeyEnabledResponse(api_key=api_key_to_proto(record))

    async def DeleteApiKey(
        self, request: authn_pb2.DeleteApiKeyRequest, context: Any
    ) -> authn_pb2.DeleteApiKeyResponse:
        await self._admin.delete(request.id, current_call())
        return authn_pb2.DeleteApiKeyResponse()
