"""Administration over real mTLS gRPC, decided by a real authz (R4, R15)."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc, authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.deadline import Deadline
from services.common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from tests.fakes.authn_stack import CORE, OPERATOR, AuthnStack

ADMIN = audit_pb2.EVENT_TYPE_ADMIN
METHODS = {
    "CreateApiKey": authn_pb2.CreateApiKeyRequest(identity="x", roles=["viewer"]),
    "ListApiKeys": authn_pb2.ListApiKeysRequest(),
    "SetApiKeyEnabled": authn_pb2.SetApiKeyEnabledRequest(id="x", enabled=True),
    "DeleteApiKey": authn_pb2.DeleteApiKeyRequest(id="x"),
}


@pytest_asyncio.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthnStack]:
    stack = await AuthnStack.make(tmp_path_factory.mktemp("admin"))
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


@pytest.fixture(autouse=True)
def forget(stack: AuthnStack) -> None:
    stack.audit.reset()


@pytest_asyncio.fixture
async def ready(stack: AuthnStack) -> AuthnStack:
    if not stack.first.admin_key:
        await stack.bootstrap()
    stack.audit.reset()
    return stack


@pytest.mark.req("R15")
async def test_bootstrap_is_for_operators_with_the_token_and_once(stack: AuthnStack) -> None:
    request = authn_pb2.BootstrapRequest(bootstrap_token="guess")
    for peer in (CORE, "platform/billing", "service/authz"):
        with pytest.raises(PermissionDenied):
            await stack.admin("Bootstrap", request, as_=peer, token="")
    for guess in ("guess", ""):
        with pytest.raises(Unauthenticated):
            await stack.bootstrap(guess)
    first = await stack.bootstrap()
    for key in (first.admin_key, first.viewer_key):
        assert (await stack.authenticate(key)).principal.subject in ("admin", "viewer")
    with pytest.raises(AlreadyExists):
        await stack.bootstrap()
    stack.first.CopyFrom(first)
    phases = [(event.user, event.phase, event.result) for event in stack.audit.of(ADMIN, action="bootstrap")]
    assert phases == [
        (OPERATOR, audit_pb2.PHASE_UNSPECIFIED, audit_pb2.RESULT_FAILURE),
        (OPERATOR, audit_pb2.PHASE_UNSPECIFIED, audit_pb2.RESULT_FAILURE),
        (OPERATOR, audit_pb2.PHASE_INTENT, audit_pb2.RESULT_UNKNOWN),
        (OPERATOR, audit_pb2.PHASE_OUTCOME, audit_pb2.RESULT_SUCCESS),
        (OPERATOR, audit_pb2.PHASE_UNSPECIFIED, audit_pb2.RESULT_FAILURE),
    ]


@pytest.mark.req("R15", "R18")
async def test_a_key_lives_from_create_to_delete_and_the_record_names_the_person(ready: AuthnStack) -> None:
    scope = identity_pb2.NamespaceScope(patterns=["dev", "feature-*"])
    made = await ready.create("bob", permissions=["k8s:pods:list"], namespaces=scope, tools=["list_pods"], tenant="t1")
    key = made.api_key
    assert made.key.startswith(f"kg_{key.id}_")
    assert (key.enabled, key.namespaces, list(key.tools), key.tenant) == (True, scope, ["list_pods"], "t1")
    principal = (await ready.authenticate(made.key)).principal
    assert (list(principal.permissions), principal.namespaces) == (["k8s:pods:list"], scope)
    listed = (await ready.admin("ListApiKeys", authn_pb2.ListApiKeysRequest())).api_keys
    assert [each.identity for each in listed][:2] == ["admin", "viewer"]
    assert listed[-1].id == key.id
    assert listed[-1].HasField("last_used_at")
    changed = await ready.admin("SetApiKeyEnabled", authn_pb2.SetApiKeyEnabledRequest(id=key.id, enabled=False))
    assert not changed.api_key.enabled
    await ready.admin("DeleteApiKey", authn_pb2.DeleteApiKeyRequest(id=key.id))
    with pytest.raises(NotFound):
        await ready.admin("DeleteApiKey", authn_pb2.DeleteApiKeyRequest(id=key.id))
    events = ready.audit.of(ADMIN)
    assert {event.user for event in events} == {"admin"}
    assert all(each.token for each in ready.audit.events if each.event.phase)
    assert [event.action for event in events if event.phase == audit_pb2.PHASE_INTENT] == [
        "keys.create",
        "keys.disable",
        "keys.delete",
    ]
    intents = {event.event_id for event in events if event.phase == audit_pb2.PHASE_INTENT}
    outcomes = {event.intent_id for event in events if event.phase == audit_pb2.PHASE_OUTCOME}
    assert outcomes == intents
    assert all(event.HasField("deadline") for event in events if event.phase == audit_pb2.PHASE_INTENT)
    assert made.key.rpartition("_")[2] not in str(ready.audit.events)


@pytest.mark.req("R15", "R7")
@pytest.mark.parametrize("method", METHODS)
async def test_a_certificate_alone_and_a_token_alone_are_not_enough(ready: AuthnStack, method: str) -> None:
    request = METHODS[method]
    with pytest.raises(Unauthenticated):
        await ready.admin(method, request, token="")
    theirs = (await ready.authenticate(ready.first.admin_key, as_=CORE)).principal_token
    with pytest.raises(Unauthenticated):
        await ready.admin(method, request, token=theirs)
    others = (await ready.authenticate(ready.first.admin_key, as_="operator/mallory")).principal_token
    with pytest.raises(Unauthenticated):
        await ready.admin(method, request, token=others)
    with pytest.raises(PermissionDenied):
        await ready.admin(method, request, as_=CORE, token=theirs)


@pytest.mark.req("R15")
@pytest.mark.parametrize("method", METHODS)
async def test_policy_decides_and_kubernetes_rights_are_none_here(ready: AuthnStack, method: str) -> None:
    """Role admin has k8s:*; that never matches kubegate:*."""
    for roles in (["viewer"], ["admin"]):
        made = await ready.create("limited", roles=roles)
        token = (await ready.authenticate(made.key, as_=OPERATOR)).principal_token
        ready.audit.reset()
        with pytest.raises(PermissionDenied):
            await ready.admin(method, METHODS[method], token=token)
        (denied,) = ready.audit.of(audit_pb2.EVENT_TYPE_AUTHORIZATION)
        assert denied.result == audit_pb2.RESULT_FAILURE
        (refused,) = ready.audit.of(ADMIN)
        assert (refused.user, refused.result) == ("limited", audit_pb2.RESULT_FAILURE)


@pytest.mark.req("R15")
async def test_a_role_may_grant_one_verb(ready: AuthnStack) -> None:
    made = await ready.create("reader", roles=["key-reader"])
    token = (await ready.authenticate(made.key, as_=OPERATOR)).principal_token
    assert (await ready.admin("ListApiKeys", authn_pb2.ListApiKeysRequest(), token=token)).api_keys
    with pytest.raises(PermissionDenied):
        await ready.admin("CreateApiKey", METHODS["CreateApiKey"], token=token)


@pytest.mark.req("R15", "R5")
async def test_a_disabled_administrator_is_out_at_once(ready: AuthnStack) -> None:
    everywhere = identity_pb2.NamespaceScope(all=True)
    made = await ready.create("second", permissions=["kubegate:*"], namespaces=everywhere)
    token = (await ready.authenticate(made.key, as_=OPERATOR)).principal_token
    await ready.admin("ListApiKeys", authn_pb2.ListApiKeysRequest(), token=token)
    request = authn_pb2.SetApiKeyEnabledRequest(id=made.api_key.id, enabled=False)
    await ready.admin("SetApiKeyEnabled", request)
    with pytest.raises(Unauthenticated):
        await ready.admin("ListApiKeys", authn_pb2.ListApiKeysRequest(), token=token)


@pytest.mark.req("R4", "I2.11")
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"permissions": ["k8s:pods:list"]}, "need namespaces"),
        ({"permissions": ["k8s:pods:list"], "namespaces": identity_pb2.NamespaceScope()}, "name namespaces"),
        ({}, "at least one role or permission"),
        ({"roles": ["system:masters"]}, "role"),
    ],
)
async def test_a_key_that_breaks_the_rules_is_not_made(ready: AuthnStack, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        await ready.create("bob", **fields)


@pytest.mark.req("R18", "I2.6")
async def test_a_change_that_cannot_be_recorded_is_not_made(ready: AuthnStack) -> None:
    made = await ready.create("carol", roles=["viewer"])
    token = (await ready.authenticate(ready.first.admin_key, as_=OPERATOR)).principal_token
    request = authn_pb2.SetApiKeyEnabledRequest(id=made.api_key.id, enabled=False)
    ready.audit.fail_when = lambda event: event.phase == audit_pb2.PHASE_INTENT
    with pytest.raises(Unavailable):
        await ready.admin("SetApiKeyEnabled", request, token=token)
    ready.audit.fail_when = lambda event: event.phase == audit_pb2.PHASE_OUTCOME
    with pytest.raises(Unavailable, match="Nothing was changed"):
        await ready.admin("CreateApiKey", METHODS["CreateApiKey"], token=token)
    ready.audit.reset()
    listed = (await ready.admin("ListApiKeys", authn_pb2.ListApiKeysRequest())).api_keys
    assert {key.identity for key in listed}.isdisjoint({"x"})
    assert next(key for key in listed if key.id == made.api_key.id).enabled
    await ready.authenticate(made.key)


@pytest.mark.req("R17", "R15", "I3.6")
async def test_who_may_administer_keys_and_users_gains_nothing_by_it(ready: AuthnStack) -> None:
    """Making, rotating and enabling keys, passwords, second factors and issuers are ways to be somebody else."""
    desk = (await ready.create("desk", roles=["desk"])).key
    sleeper = (await ready.create("sleeper", roles=["admin"])).api_key.id
    await ready.admin("SetApiKeyEnabled", authn_pb2.SetApiKeyEnabledRequest(id=sleeper, enabled=False))
    admin_key = ready.first.admin_key.split("_")[1]

    async def act(stub: Any, method: str, request: Any) -> Any:
        token = (await ready.authenticate(desk, as_=OPERATOR)).principal_token
        metadata = (("kubegate-principal-token", token),)
        return await ready.peer(OPERATOR).unary(
            lambda channel: getattr(stub(channel), method), request, Deadline.after(10), metadata
        )

    keys, users, issuers = (
        authn_pb2_grpc.CredentialAdminServiceStub,
        admin_pb2_grpc.UserAdminServiceStub,
        admin_pb2_grpc.IssuerAdminServiceStub,
    )
    everywhere = identity_pb2.NamespaceScope(all=True)
    trusted = admin_pb2.TrustedIssuer(issuer="https://evil.example", audience="kubegate", default_roles=["viewer"])
    attempts: list[tuple[Any, str, Any]] = [
        (keys, "CreateApiKey", authn_pb2.CreateApiKeyRequest(identity="x", roles=["admin"])),
        (keys, "CreateApiKey", authn_pb2.CreateApiKeyRequest(identity="x", roles=["desk", "admin"])),
        (
            keys,
            "CreateApiKey",
            authn_pb2.CreateApiKeyRequest(identity="x", permissions=["kubegate:grants:any"], namespaces=everywhere),
        ),
        (keys, "RotateApiKey", authn_pb2.RotateApiKeyRequest(id=admin_key)),
        (keys, "SetApiKeyEnabled", authn_pb2.SetApiKeyEnabledRequest(id=sleeper, enabled=True)),
        (users, "CreateUser", admin_pb2.CreateUserRequest(name="x", roles=["admin"])),
        (users, "ResetPassword", admin_pb2.ResetPasswordRequest(name="admin")),
        (users, "EnrolTotp", admin_pb2.EnrolTotpRequest(name="admin")),
        (users, "RemoveTotp", admin_pb2.RemoveTotpRequest(name="admin")),
        (issuers, "CreateIssuer", admin_pb2.CreateIssuerRequest(issuer=trusted)),
    ]
    for stub, method, request in attempts:
        with pytest.raises(PermissionDenied, match="beyond what they hold"):
            await act(stub, method, request)
    refused = [event for event in ready.audit.of(ADMIN) if event.error_message.startswith("grants beyond")]
    assert len(refused) == len(attempts)
    assert {event.user for event in refused} == {"desk"}
    made = await act(keys, "CreateApiKey", authn_pb2.CreateApiKeyRequest(identity="x", roles=["viewer", "ghost"]))
    assert list(made.unknown_roles) == ["ghost"]
    assert made.key
    own = desk.split("_")[1]
    assert (await act(keys, "RotateApiKey", authn_pb2.RotateApiKeyRequest(id=own))).key, "what he has anyway"
    [outcome] = [e for e in ready.audit.of(ADMIN, action="keys.create") if e.metadata["identity"] == "sleeper"][-1:]
    assert outcome.metadata["grants_rule"] == "direct#1", "the record says that somebody granted without holding"
