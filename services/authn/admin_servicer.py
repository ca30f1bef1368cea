"""protobuf <-> domain for the administration of users, issuers and signing keys. No decision is made here."""

from datetime import datetime
from typing import Any

from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc
from services.authn.issuer_admin import IssuerAdmin
from services.authn.messages import issuer_from_proto, issuer_to_proto, scope_from_proto, scope_to_proto, stamp
from services.authn.model import NewUser, Secret, SigningKeyView, User
from services.authn.signing_admin import SigningKeyAdmin
from services.authn.user_admin import UserAdmin
from services.common.grpc_server import current_call

_PURPOSES = {"access": admin_pb2.SIGNING_PURPOSE_ACCESS, "principal": admin_pb2.SIGNING_PURPOSE_PRINCIPAL}
_NAMES = {number: name for name, number in _PURPOSES.items()}


def _user(user: User, locked_until: datetime | None = None) -> admin_pb2.User:
    return admin_pb2.User(
        name=user.name,
        roles=user.roles,
        permissions=user.permissions,
        namespaces=scope_to_proto(user.namespaces),
        tenant=user.tenant,
        enabled=user.enabled,
        created_at=stamp(user.created_at),
        totp=user.second_factor is not None,
        locked_until=stamp(locked_until) if locked_until else None,
    )


def _password(text: str) -> Secret | None:
    return Secret(text) if text else None


class UserAdminServicer(admin_pb2_grpc.UserAdminServiceServicer):
    """kubegate.authn.v1.UserAdminService."""

    def __init__(self, admin: UserAdmin) -> None:
        self._admin = admin

    async def CreateUser(self, request: admin_pb2.CreateUserRequest, context: Any) -> admin_pb2.CreateUserResponse:
        asked = NewUser(
            name=request.name,
            roles=tuple(request.roles),
            permissions=tuple(request.permissions),
            namespaces=scope_from_proto(request.namespaces) if request.HasField("namespaces") else None,
            tenant=request.tenant,
            password=_password(request.password),
        )
        user, password, unknown = await self._admin.create(asked, current_call())
        return admin_pb2.CreateUserResponse(
            user=_user(user), password=password.reveal() if password else "", unknown_roles=unknown
        )

    async def ListUsers(self, request: admin_pb2.ListUsersRequest, context: Any) -> admin_pb2.ListUsersResponse:
        users = await self._admin.list(current_call())
        return admin_pb2.ListUsersResponse(users=[_user(user, until) for user, until in users])

    async def SetUserEnabled(
        self, request: admin_pb2.SetUserEnabledRequest, context: Any
    ) -> admin_pb2.SetUserEnabledResponse:
        user = await self._admin.set_enabled(request.name, request.enabled, current_call())
        return admin_pb2.SetUserEnabledResponse(user=_user(user))

    async def DeleteUser(self, request: admin_pb2.DeleteUserRequest, context: Any) -> admin_pb2.DeleteUserResponse:
        await self._admin.delete(request.name, current_call())
        return admin_pb2.DeleteUserResponse()

    async def ResetPassword(
        self, request: admin_pb2.ResetPasswordRequest, context: Any
    ) -> admin_pb2.ResetPasswordResponse:
        made = await self._admin.reset_password(request.name, _password(request.password), current_call())
        return admin_pb2.ResetPasswordResponse(password=made.reveal() if made else "")

    async def EnrolTotp(self, request: admin_pb2.EnrolTotpRequest, context: Any) -> admin_pb2.EnrolTotpResponse:
        uri, codes = await self._admin.enrol_totp(request.name, current_call())
        return admin_pb2.EnrolTotpResponse(uri=uri.reveal(), recovery_codes=[code.reveal() for code in codes])

    async def ConfirmTotp(self, request: admin_pb2.ConfirmTotpRequest, context: Any) -> admin_pb2.ConfirmTotpResponse:
        user = await self._admin.confirm_totp(request.name, request.code, current_call())
        return admin_pb2.ConfirmTotpResponse(user=_user(user))

    async def RemoveTotp(self, request: admin_pb2.RemoveTotpRequest, context: Any) -> admin_pb2.RemoveTotpResponse:
        user = await self._admin.remove_totp(request.name, current_call())
        return admin_pb2.RemoveTotpResponse(user=_user(user))

    async def UnlockUser(self, request: admin_pb2.UnlockUserRequest, context: Any) -> admin_pb2.UnlockUserResponse:
        user = await self._admin.unlock(request.name, current_call())
        return admin_pb2.UnlockUserResponse(user=_user(user))


class IssuerAdminServicer(admin_pb2_grpc.IssuerAdminServiceServicer):
    """kubegate.authn.v1.IssuerAdminService."""

    def __init__(self, admin: IssuerAdmin) -> None:
        self._admin = admin

    async def CreateIssuer(
        self, request: admin_pb2.CreateIssuerRequest, context: Any
    ) -> admin_pb2.CreateIssuerResponse:
        made = await self._admin.create(issuer_from_proto(request.issuer), current_call())
        return admin_pb2.CreateIssuerResponse(issuer=issuer_to_proto(made))

    async def ListIssuers(self, request: admin_pb2.ListIssuersRequest, context: Any) -> admin_pb2.ListIssuersResponse:
        issuers = await self._admin.list(current_call())
        return admin_pb2.ListIssuersResponse(issuers=[issuer_to_proto(issuer) for issuer in issuers])

    async def SetIssuerEnabled(
        self, request: admin_pb2.SetIssuerEnabledRequest, context: Any
    ) -> admin_pb2.SetIssuerEnabledResponse:
        issuer = await self._admin.set_enabled(request.issuer, request.enabled, current_call())
        return admin_pb2.SetIssuerEnabledResponse(issuer=issuer_to_proto(issuer))

    async def DeleteIssuer(
        self, request: admin_pb2.DeleteIssuerRequest, context: Any
    ) -> admin_pb2.DeleteIssuerResponse:
        await self._admin.delete(request.issuer, current_call())
        return admin_pb2.DeleteIssuerResponse()


class SigningKeyAdminServicer(admin_pb2_grpc.SigningKeyAdminServiceServicer):
    """kubegate.authn.v1.SigningKeyAdminService."""

    def __init__(self, admin: SigningKeyAdmin) -> None:
        self._admin = admin

    async def ListSigningKeys(
        self, request: admin_pb2.ListSigningKeysRequest, context: Any
    ) -> admin_pb2.ListSigningKeysResponse:
        return admin_pb2.ListSigningKeysResponse(keys=[_view(key) for key in await self._admin.list(current_call())])

    async def RotateSigningKey(
        self, request: admin_pb2.RotateSigningKeyRequest, context: Any
    ) -> admin_pb2.RotateSigningKeyResponse:
        key = await self._admin.rotate(_NAMES.get(request.purpose, ""), current_call())
        return admin_pb2.RotateSigningKeyResponse(key=_view(key))

    async def WithdrawSigningKey(
        self, request: admin_pb2.WithdrawSigningKeyRequest, context: Any
    ) -> admin_pb2.WithdrawSigningKeyResponse:
        key = _view(await self._admin.withdraw(request.kid, request.reason, current_call()))
        return admin_pb2.WithdrawSigningKeyResponse(purpose=key.purpose, current=key)


def _view(key: SigningKeyView) -> admin_pb2.SigningKey:
    return admin_pb2.SigningKey(
        kid=key.kid, purpose=_PURPOSES[key.purpose], state=key.state, active_from=stamp(key.active_from)
    )
