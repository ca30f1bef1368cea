"""Exchanged tokens over real authn and authz: what policy makes of them, and how fast they end (RFC 8693, R12)."""

from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc, authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authn.exchange import ACCESS_TOKEN
from services.common.deadline import Deadline
from services.common.errors import InvalidArgument, PermissionDenied, Unauthenticated
from services.common.principal_token import decode_principal
from tests.contract.core_rig import CoreRig, until_refused
from tests.fakes.authn_stack import CORE, OPERATOR, POLICY, AuthnStack

RULES = f"""{POLICY}
  - {{name: reader-anywhere, permissions: ["k8s:pods:list"]}}
bindings:
  - {{subject: carol, role: reader-anywhere}}
deny:
  - {{name: no-trial, permissions: ["k8s:pods:list"], namespaces: [secret], condition: "'trial' in principal.roles"}}
"""


@pytest_asyncio.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CoreRig]:
    stack = await AuthnStack.make(tmp_path_factory.mktemp("exchange"))
    (stack.directory / "authz" / "policy.yaml").write_text(RULES)
    try:
        rig = CoreRig(stack)
        await rig.start()
        yield rig
        await rig.stop()
    finally:
        await stack.stop()


async def of_user(rig: CoreRig, name: str, *roles: str) -> Any:
    token = (await rig.stack.authenticate(rig.stack.first.admin_key, as_=OPERATOR)).principal_token
    made = await rig.stack.peer(OPERATOR).unary(
        lambda channel: admin_pb2_grpc.UserAdminServiceStub(channel).CreateUser,
        admin_pb2.CreateUserRequest(name=name, roles=roles),
        Deadline.after(10),
        (("kubegate-principal-token", token),),
    )
    return await rig.stack.issue(name, made.password)


async def exchange(rig: CoreRig, subject: str, **more: str) -> authn_pb2.IssueTokenResponse:
    asked = authn_pb2.TokenExchange(subject_token=subject, subject_token_type=ACCESS_TOKEN, **more)
    request = authn_pb2.IssueTokenRequest(exchange=asked)
    response: authn_pb2.IssueTokenResponse = await rig.stack.ask(CORE, "IssueToken", request)
    return response


async def decided(rig: CoreRig, token: str, namespace: str) -> str:
    caller = await rig.at_the_core(token)
    return str((await rig.at_authz(caller.token, namespace)).WhichOneof("outcome"))


@pytest.mark.req("I3.5", "R4", "R12", "R18")
async def test_a_narrowed_token_is_decided_without_bindings_and_escapes_no_deny_rule(rig: CoreRig) -> None:
    carol = (await of_user(rig, "carol", "viewer", "trial")).access_token
    bot = (await of_user(rig, "bot", "admin")).access_token
    narrow = await exchange(rig, carol, scope="viewer", actor_token=bot, actor_token_type=ACCESS_TOKEN)
    assert (narrow.issued_token_type, narrow.scope) == (ACCESS_TOKEN, "viewer")
    same = (await exchange(rig, carol)).access_token
    allowed = {
        name: [await decided(rig, token, each) for each in ("default", "other", "secret")]
        for name, token in (("carol", carol), ("same", same), ("narrow", narrow.access_token))
    }
    assert allowed["carol"] == allowed["same"] == ["allowed", "allowed", "denied"]
    assert allowed["narrow"] == ["allowed", "denied", "denied"]
    told = rig.stack.audit.events[-1]
    assert told.event.event_type == audit_pb2.EVENT_TYPE_AUTHORIZATION
    who = decode_principal(jwt.decode(told.token, options={"verify_signature": False}))
    assert [(actor.issuer, actor.subject) for actor in who.actors] == [("kubegate", "bot")]
    assert (who.subject, list(who.narrowed_to)) == ("carol", ["viewer"])
    with pytest.raises(InvalidArgument, match="does not have"):
        await exchange(rig, narrow.access_token, scope="trial")


@pytest.mark.req("R17", "R15", "R18", "I3.5", "I3.6")
async def test_who_acts_for_another_makes_and_changes_no_credential(rig: CoreRig) -> None:
    own = (await of_user(rig, "desk", "desk")).access_token
    agent = (await of_user(rig, "agent", "viewer")).access_token
    delegated = await exchange(rig, own, actor_token=agent, actor_token_type=ACCESS_TOKEN)
    narrow = (await exchange(rig, own)).access_token

    async def ask(credential: str, stub: Any, method: str, request: Any) -> Any:
        token = (await rig.stack.authenticate(credential, as_=OPERATOR)).principal_token
        metadata = (("kubegate-principal-token", token),)
        return await rig.stack.peer(OPERATOR).unary(
            lambda channel: getattr(stub(channel), method), request, Deadline.after(10), metadata
        )

    users, keys = admin_pb2_grpc.UserAdminServiceStub, authn_pb2_grpc.CredentialAdminServiceStub
    everywhere = identity_pb2.NamespaceScope(all=True)
    changes = (
        (users, "CreateUser", admin_pb2.CreateUserRequest(name="eve", roles=["viewer"])),
        (users, "ResetPassword", admin_pb2.ResetPasswordRequest(name="agent")),
        (users, "SetUserEnabled", admin_pb2.SetUserEnabledRequest(name="agent", enabled=False)),
        (users, "EnrolTotp", admin_pb2.EnrolTotpRequest(name="agent")),
        (
            keys,
            "CreateApiKey",
            authn_pb2.CreateApiKeyRequest(identity="eve", permissions=["kubegate:keys:list"], namespaces=everywhere),
        ),
        (
            admin_pb2_grpc.IssuerAdminServiceStub,
            "CreateIssuer",
            admin_pb2.CreateIssuerRequest(issuer=admin_pb2.TrustedIssuer(issuer="https://idp.example", audience="k")),
        ),
        (
            admin_pb2_grpc.SigningKeyAdminServiceStub,
            "RotateSigningKey",
            admin_pb2.RotateSigningKeyRequest(purpose=admin_pb2.SIGNING_PURPOSE_ACCESS),
        ),
    )
    for stub, method, request in changes:
        with pytest.raises(PermissionDenied, match="use a token of your own"):
            await ask(delegated.access_token, stub, method, request)
        told = rig.stack.audit.events[-1].event
        assert (told.event_type, told.result) == (audit_pb2.EVENT_TYPE_ADMIN, audit_pb2.RESULT_FAILURE)
        assert (told.user, told.error_message) == ("desk", "denied by policy")
    listed = await ask(delegated.access_token, users, "ListUsers", admin_pb2.ListUsersRequest())
    assert "eve" not in {user.name for user in listed.users}
    for stub, method, request in changes[4:5]:
        await ask(narrow, stub, method, request), "exchanged without an actor, it is still one's own"


@pytest.mark.req("I3.5", "I3.13", "R12")
@pytest.mark.parametrize("end", ["token", "session"])
async def test_ending_the_subjects_token_or_session_ends_what_was_exchanged_wherever_it_is_cached(
    rig: CoreRig, end: str
) -> None:
    issued = await of_user(rig, f"dave-{end}", "viewer")
    first = (await exchange(rig, issued.access_token)).access_token
    made = (await exchange(rig, first, scope="viewer")).access_token
    callers = [await rig.at_the_core(token) for token in (first, made)]
    for token, caller in zip((first, made), callers, strict=True):
        assert (await rig.at_the_core(token)).cached
        await rig.at_authz(caller.token)
    ended = issued.access_token if end == "token" else issued.refresh_token
    await rig.stack.ask(CORE, "Revoke", authn_pb2.RevokeRequest(token=ended))
    await rig.heard_of_it()
    for token, caller in zip((first, made), callers, strict=True):
        with pytest.raises(Unauthenticated):
            await rig.at_the_core(token)
        await until_refused(lambda caller=caller: rig.at_authz(caller.token))  # type: ignore[misc]


@pytest.mark.req("I3.5")
async def test_a_request_with_two_grants_is_none(rig: CoreRig) -> None:
    asked = authn_pb2.TokenExchange(subject_token="a.b.c", subject_token_type=ACCESS_TOKEN)
    password = authn_pb2.PasswordCredential(username="admin", password=rig.stack.first.admin_password)
    for request in (
        authn_pb2.IssueTokenRequest(exchange=asked, password=password),
        authn_pb2.IssueTokenRequest(exchange=asked, refresh_token="kgr_x_y"),
    ):
        with pytest.raises(Unauthenticated):
            await rig.stack.ask(CORE, "IssueToken", request)
