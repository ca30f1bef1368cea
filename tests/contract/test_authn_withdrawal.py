"""A signing key in the wrong hands, and its withdrawal: real authn and authz, the core's own adapter, a thief (R12)."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authn.adapters.signing_keys import Purpose, SigningKey
from services.common.deadline import Deadline
from services.common.errors import DomainError, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from tests.contract.core_rig import CoreRig, until_refused
from tests.fakes.authn_stack import CORE, OPERATOR, AuthnStack
from tests.fakes.stolen_key import forge_access, forge_principal, steal

ADMIN = audit_pb2.EVENT_TYPE_ADMIN
ROOT = identity_pb2.Principal(
    issuer="kubegate",
    subject="admin",
    credential_id="made-up",
    auth_type="api_key",
    roles=["admin"],
    namespaces=identity_pb2.NamespaceScope(all=True),
)


class Rig(CoreRig):
    """The rig, a thief, and what stops him."""

    def stolen(self, purpose: Purpose) -> SigningKey:
        home = self.stack.directory / "authn"
        return steal(home / "authn.db", home / "kek", purpose)

    async def withdraw(self, kid: str, reason: str = "seen on a paste site", token: str | None = None) -> Any:
        if token is None:
            token = (await self.stack.authenticate(self.stack.first.admin_key, as_=OPERATOR)).principal_token
        return await self.stack.peer(OPERATOR).unary(
            lambda channel: admin_pb2_grpc.SigningKeyAdminServiceStub(channel).WithdrawSigningKey,
            admin_pb2.WithdrawSigningKeyRequest(kid=kid, reason=reason),
            Deadline.after(10),
            (("kubegate-principal-token", token),),
        )


@pytest_asyncio.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    stack = await AuthnStack.make(tmp_path_factory.mktemp("withdrawal"))
    try:
        rig = Rig(stack)
        await rig.start()
        yield rig
        await rig.stop()
    finally:
        await stack.stop()


@pytest.mark.req("I3.17", "R12", "R5")
async def test_what_a_withdrawn_access_key_signed_is_refused_wherever_it_was_cached(rig: Rig) -> None:
    genuine = (await rig.stack.issue("admin", rig.stack.first.admin_password)).access_token
    thief = rig.stolen(Purpose.ACCESS)
    forged = forge_access(thief, genuine)
    caller = await rig.at_the_core(forged)
    assert (caller.principal.subject, (await rig.at_the_core(forged)).cached) == ("admin", True), "the attack works"
    await rig.at_authz(caller.token)
    assert thief.kid in (await rig.adapter.jwks(Deadline.after(5))).decode()
    assert rig.adapter.known_jwks() is not None

    signs = (await rig.withdraw(thief.kid)).current
    with pytest.raises(Unauthenticated):
        await rig.stack.authenticate(forge_access(thief, genuine))
    await rig.heard_of_it()
    for token in (forged, genuine):
        with pytest.raises(Unauthenticated):
            await rig.at_the_core(token)
    assert rig.adapter.known_jwks() is None, "the key set that the core serves is fetched again"
    published = [key["kid"] for key in json.loads(await rig.adapter.jwks(Deadline.after(5)))["keys"]]
    assert published == [signs.kid]
    await until_refused(lambda: rig.at_authz(caller.token))

    again = (await rig.stack.issue("admin", rig.stack.first.admin_password)).access_token
    assert (await rig.at_the_core(again)).principal.subject == "admin"
    proofs = rig.stack.audit.of(audit_pb2.EVENT_TYPE_AUTHENTICATION, result=audit_pb2.RESULT_SUCCESS)
    assert any(thief.kid in proof.metadata["ends_with"] for proof in proofs), "the record says what it was used for"


@pytest.mark.req("I3.17", "R12", "R5")
async def test_a_withdrawn_principal_key_proves_nothing_whatever_revision_it_claims(rig: Rig) -> None:
    thief = rig.stolen(Purpose.PRINCIPAL)
    known = await rig.at_the_core(rig.stack.first.viewer_key)
    assert (await rig.at_the_core(rig.stack.first.viewer_key)).cached
    seen = forge_principal(thief, ROOT, CORE)
    assert (await rig.at_authz(seen)).WhichOneof("outcome") == "allowed", "the attack works"

    await rig.withdraw(thief.kid)
    await until_refused(lambda: rig.at_authz(seen))
    for token in (forge_principal(thief, ROOT, CORE), known.token):
        with pytest.raises(Unauthenticated):
            await rig.at_authz(token)
    with pytest.raises(Unauthenticated):
        await rig.withdraw("x" * 43, token=forge_principal(thief, ROOT, OPERATOR))
    await rig.heard_of_it()
    renewed = await rig.at_the_core(rig.stack.first.viewer_key)
    assert renewed.token != known.token, "what the core kept was signed with it"
    await rig.at_authz(renewed.token)


@pytest.mark.req("I3.17", "R15", "R18")
async def test_a_withdrawal_is_on_record_with_its_reason_and_needs_the_right(rig: Rig) -> None:
    stack = rig.stack
    listed = rig.stolen(Purpose.ACCESS).kid
    reader = (await stack.create("clerk", roles=["key-reader"])).key
    token = (await stack.authenticate(reader, as_=OPERATOR)).principal_token
    with pytest.raises(PermissionDenied, match="kubegate:keys:withdraw"):
        await rig.withdraw(listed, token=token)
    for reason in ("", "  ", "x", "two\nlines", "x" * 201):
        with pytest.raises(InvalidArgument, match="Say why"):
            await rig.withdraw(listed, reason)
    for kid in ("", "kid", "x" * 43, "x" * 500):
        with pytest.raises(NotFound, match="signing-keys list"):
            await rig.withdraw(kid)
    assert rig.stolen(Purpose.ACCESS).kid == listed
    stack.audit.fail_when = lambda event: event.phase == audit_pb2.PHASE_INTENT
    with pytest.raises(DomainError):
        await rig.withdraw(listed)
    assert rig.stolen(Purpose.ACCESS).kid == listed, "what cannot be recorded is not done"
    stack.audit.reset()
    assert (await rig.withdraw(listed, "laptop lost")).current.state == "current"
    intent, outcome = stack.audit.of(ADMIN, action="keys.withdraw-signing")
    assert (intent.phase, outcome.phase) == (audit_pb2.PHASE_INTENT, audit_pb2.PHASE_OUTCOME)
    assert (intent.user, intent.resource) == ("admin", f"keys/{listed}")
    assert intent.metadata["reason"] == "laptop lost"
    assert (intent.metadata["purpose"], intent.metadata["state"]) == ("access", "current")
    assert outcome.result == audit_pb2.RESULT_SUCCESS
