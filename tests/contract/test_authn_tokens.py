"""Grants, introspection, revocation, certificates and lock-outs over real processes."""

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc import aio

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc, authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2, lease_pb2
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded, DomainError, PermissionDenied, Unauthenticated, Unavailable
from tests.fakes.authn_stack import CORE, OPERATOR, AuthnStack

PLATFORM = "platform/billing"
CA_KEY = ec.generate_private_key(ec.SECP256R1())
SPIFFE = "spiffe://clients.example/agent"


def _certificate(
    *, uri: str = "", common_name: str = "agent", key: Any = CA_KEY, ca: bool = False, days: int = 1
) -> x509.Certificate:
    now = datetime.now(UTC)
    own = CA_KEY if ca else ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client CA" if ca else common_name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client CA")]))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if ca:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName("agent.test")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    return builder.sign(key, hashes.SHA256())


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest_asyncio.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthnStack]:
    stack = await AuthnStack.make(tmp_path_factory.mktemp("tokens"))
    pem = _certificate(ca=True).public_bytes(serialization.Encoding.PEM)
    (stack.authn.directory / "clients.crt").write_bytes(pem)
    stack.authn.config |= {
        "client_ca_file": "clients.crt",
        "certificates": [
            {"name": SPIFFE, "identity": "agent", "roles": ["viewer"], "namespaces": ["dev"]},
            {"name": "CN=robot", "identity": "robot", "roles": ["viewer"]},
        ],
    }
    try:
        await stack.start()
        await stack.bootstrap()
        yield stack
    finally:
        await stack.stop()


@pytest.fixture(autouse=True)
def forget(stack: AuthnStack) -> None:
    stack.audit.reset()


async def grant(stack: AuthnStack, key: str, **fields: Any) -> authn_pb2.IssueTokenResponse:
    _, key_id, secret = key.split("_")
    client = authn_pb2.ClientCredentials(client_id=key_id, client_secret=secret)
    request = authn_pb2.IssueTokenRequest(client=client, **fields)
    response: authn_pb2.IssueTokenResponse = await stack.ask(PLATFORM, "IssueToken", request)
    return response


async def introspect(stack: AuthnStack, token: str) -> authn_pb2.IntrospectResponse:
    response: authn_pb2.IntrospectResponse = await stack.ask(
        PLATFORM, "Introspect", authn_pb2.IntrospectRequest(token=token)
    )
    return response


async def admin(stack: AuthnStack, method: str, request: Any, key: str = "") -> Any:
    """A call of UserAdminService."""
    token = (await stack.authenticate(key or stack.first.admin_key, as_=OPERATOR)).principal_token
    return await stack.peer(OPERATOR).unary(
        lambda channel: getattr(admin_pb2_grpc.UserAdminServiceStub(channel), method),
        request,
        Deadline.after(10),
        (("kubegate-principal-token", token),),
    )


@pytest.mark.req("I3.5", "R3", "R4", "I3.13")
async def test_client_credentials_give_a_token_with_what_the_key_has_now(stack: AuthnStack) -> None:
    made = await stack.create("bob", roles=["viewer"], tools=["list_pods"], tenant="t1")
    issued = await grant(stack, made.key)
    assert not issued.refresh_token
    assert jwt.decode(issued.access_token, options={"verify_signature": False})["client_id"] == PLATFORM
    principal = (await stack.authenticate(issued.access_token)).principal
    assert (principal.subject, principal.auth_type, principal.tenant) == ("bob", "jwt", "t1")
    assert (list(principal.roles), list(principal.tools)) == (["viewer"], ["list_pods"])
    assert principal.credential_id.partition("/")[0] == made.api_key.id
    await stack.admin("SetApiKeyEnabled", authn_pb2.SetApiKeyEnabledRequest(id=made.api_key.id, enabled=False))
    with pytest.raises(Unauthenticated):
        await stack.authenticate(issued.access_token)


@pytest.mark.req("I3.5", "I3.11")
async def test_a_grant_that_is_none_is_the_generic_refusal(stack: AuthnStack) -> None:
    password = authn_pb2.PasswordCredential(username="admin", password=stack.first.admin_password)
    _, key_id, secret = stack.first.admin_key.split("_")
    client = authn_pb2.ClientCredentials(client_id=key_id, client_secret=secret)
    for request in (
        authn_pb2.IssueTokenRequest(),
        authn_pb2.IssueTokenRequest(password=password, client=client),
        authn_pb2.IssueTokenRequest(password=password, refresh_token="kgr_x"),
        authn_pb2.IssueTokenRequest(client=authn_pb2.ClientCredentials(client_id=key_id, client_secret="wrong")),
        authn_pb2.IssueTokenRequest(refresh_token="kgr_" + "0" * 12 + "_" + "0" * 43),
        authn_pb2.IssueTokenRequest(refresh_token="x" * 9000),
    ):
        with pytest.raises(Unauthenticated, match=r"^Authentication failed: the credential is not valid\.$"):
            await stack.ask(PLATFORM, "IssueToken", request)


@pytest.mark.req("I3.5", "R18")
@pytest.mark.parametrize("how", ["refused", "away", "silent"])
async def test_a_refresh_token_is_not_used_up_by_what_cannot_be_recorded(stack: AuthnStack, how: str) -> None:
    """Regression: it was, so that asking again ended the family."""
    first = await stack.issue("admin", stack.first.admin_password)
    renewal = authn_pb2.IssueTokenRequest(refresh_token=first.refresh_token)
    if how == "refused":
        stack.audit.fail_when = lambda event: event.action == "refresh_token"
    elif how == "silent":
        stack.audit.release.clear()
    else:
        await stack.audit.stop()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await stack.ask(PLATFORM, "IssueToken", renewal, seconds=1)
    if how == "away":
        await stack.audit.start()
    stack.audit.reset()
    second = await stack.ask(PLATFORM, "IssueToken", renewal, seconds=20)
    for issued in (first, second):
        assert (await stack.authenticate(issued.access_token)).principal.subject == "admin"
    with pytest.raises(Unauthenticated):
        await stack.ask(PLATFORM, "IssueToken", renewal)
    with pytest.raises(Unauthenticated):
        await stack.authenticate(second.access_token)


@pytest.mark.req("I3.5")
async def test_a_refresh_token_renews_and_its_reuse_ends_the_access_tokens_too(stack: AuthnStack) -> None:
    first = await stack.issue("admin", stack.first.admin_password)

    async def renew(token: str) -> authn_pb2.IssueTokenResponse:
        response: authn_pb2.IssueTokenResponse = await stack.ask(
            PLATFORM, "IssueToken", authn_pb2.IssueTokenRequest(refresh_token=token)
        )
        return response

    second = await renew(first.refresh_token)
    principal = (await stack.authenticate(second.access_token)).principal
    assert (principal.subject, list(principal.amr)) == ("admin", ["pwd"])
    with pytest.raises(Unauthenticated):
        await renew(first.refresh_token)
    for token in (first.access_token, second.access_token):
        with pytest.raises(Unauthenticated):
            await stack.authenticate(token)
    with pytest.raises(Unauthenticated):
        await renew(second.refresh_token)
    reasons = {event.error_message for event in stack.audit.of(audit_pb2.EVENT_TYPE_AUTHENTICATION)}
    assert "refresh token used twice" in reasons


@pytest.mark.req("I3.5")
async def test_introspection_says_whose_a_token_is_or_nothing(stack: AuthnStack) -> None:
    issued = await stack.issue("admin", stack.first.admin_password)
    active = await introspect(stack, issued.access_token)
    assert active.active
    assert active.principal.subject == "admin"
    assert active.principal.HasField("expires_at")
    assert (await introspect(stack, stack.first.viewer_key)).principal.subject == "viewer"
    principal_token = (await stack.authenticate(stack.first.admin_key, as_=PLATFORM)).principal_token
    for token in ("", "junk", issued.access_token + "x", principal_token, "x" * 9000):
        assert await introspect(stack, token) == authn_pb2.IntrospectResponse()


@pytest.mark.req("I3.5", "I3.13", "R12")
async def test_a_revoked_token_is_dead_and_told_to_those_who_hold_a_lease(stack: AuthnStack) -> None:
    stub = authn_pb2_grpc.AuthnServiceStub(stack.peer("service/authz").channel())
    watch: Any = stub.WatchRevocations()

    async def ping(sequence: int, known: int) -> authn_pb2.WatchRevocationsResponse:
        request = authn_pb2.WatchRevocationsRequest(ping=lease_pb2.LeasePing(sequence=sequence, known_revision=known))
        await watch.write(request)
        answer: authn_pb2.WatchRevocationsResponse = await watch.read()
        assert answer.answer.sequence == sequence
        return answer

    known = (await ping(1, 0)).answer.revision
    issued = await stack.issue("admin", stack.first.admin_password)
    answer = await stack.authenticate(issued.access_token)
    claims = jwt.decode(answer.principal_token, options={"verify_signature": False})
    assert claims["rev"] == answer.revocation_revision == known
    await stack.ask(PLATFORM, "Revoke", authn_pb2.RevokeRequest(token=issued.access_token))
    with pytest.raises(Unauthenticated):
        await stack.authenticate(issued.access_token)
    told = await ping(2, known)
    assert list(told.ended) == [answer.principal.credential_id]
    assert told.ended_revisions[0] > claims["rev"]
    # RFC 7009: what is not active is no error. An API key is not ended by who holds it.
    for token in (issued.access_token, "junk", "", stack.first.viewer_key):
        await stack.ask(PLATFORM, "Revoke", authn_pb2.RevokeRequest(token=token))
    assert (await stack.authenticate(stack.first.viewer_key)).principal.subject == "viewer"
    fresh = await stack.issue("admin", stack.first.admin_password)
    await stack.ask(PLATFORM, "Revoke", authn_pb2.RevokeRequest(token=fresh.refresh_token))
    with pytest.raises(Unauthenticated):
        await stack.authenticate(fresh.access_token)
    watch.cancel()


@pytest.mark.req("I3.3", "I3.1", "R7")
async def test_a_client_certificate_is_a_credential_by_the_word_of_the_core_alone(stack: AuthnStack) -> None:
    async def prove(der: bytes, as_: str = CORE) -> identity_pb2.Principal:
        request = authn_pb2.AuthenticateRequest(
            credential=authn_pb2.Credential(certificate=authn_pb2.CertificateCredential()), client_certificate=der
        )
        answer: authn_pb2.AuthenticateResponse = await stack.ask(as_, "Authenticate", request)
        return answer.principal

    good = _der(_certificate(uri=SPIFFE))
    principal = await prove(good)
    assert (principal.subject, principal.auth_type, list(principal.roles)) == ("agent", "certificate", ["viewer"])
    assert list(principal.namespaces.patterns) == ["dev"]
    assert (list(principal.amr), principal.HasField("expires_at")) == (["pop"], True)
    assert (await prove(_der(_certificate(common_name="robot")))).subject == "robot"
    foreign = ec.generate_private_key(ec.SECP256R1())
    for der in (
        b"",
        b"junk",
        b"x" * 9000,
        _der(_certificate(uri="spiffe://clients.example/other")),
        _der(_certificate(uri="spiffe://clients.example/other", common_name="robot")),
        _der(_certificate(common_name="stranger")),
        _der(_certificate(uri=SPIFFE, key=foreign)),
        _der(_certificate(uri=SPIFFE, days=-1)),
        _der(_certificate(ca=True)),
    ):
        with pytest.raises(Unauthenticated):
            await prove(der)
    for peer in (PLATFORM, OPERATOR):
        with pytest.raises(Unauthenticated):
            await prove(good, as_=peer)


@pytest.mark.req("I3.1")
async def test_a_key_may_be_bound_to_a_client_certificate(stack: AuthnStack) -> None:
    der = _der(_certificate(uri=SPIFFE))
    made = await stack.create("bound", roles=["viewer"], certificate_sha256=hashlib.sha256(der).hexdigest())

    async def prove(token: str, certificate: bytes) -> None:
        request = authn_pb2.AuthenticateRequest(
            credential=authn_pb2.Credential(token=token), client_certificate=certificate
        )
        await stack.ask(CORE, "Authenticate", request)

    await prove(made.key, der)
    for other in (b"", _der(_certificate(uri=SPIFFE))):
        with pytest.raises(Unauthenticated):
            await prove(made.key, other)
    with pytest.raises(Unauthenticated):
        await grant(stack, made.key)
    with pytest.raises(DomainError, match="certificate_sha256"):
        await stack.create("bound", roles=["viewer"], certificate_sha256="xyz")


@pytest.mark.req("I3.3")
async def test_a_request_that_fails_later_does_not_undo_a_lock_out(stack: AuthnStack) -> None:
    """audit refuses every record, so nothing is answered; the failures count all the same."""
    made = await admin(stack, "CreateUser", admin_pb2.CreateUserRequest(name="eve", roles=["viewer"]))
    assert (await stack.issue("eve", made.password)).access_token
    stack.audit.fail_when = lambda event: True
    for _ in range(5):
        with pytest.raises(Unavailable):
            await stack.issue("eve", "guess")
    stack.audit.reset()
    with pytest.raises(Unauthenticated):
        await stack.issue("eve", made.password)
    listed = (await admin(stack, "ListUsers", admin_pb2.ListUsersRequest())).users
    (eve,) = [user for user in listed if user.name == "eve"]
    assert eve.HasField("locked_until")
    await admin(stack, "UnlockUser", admin_pb2.UnlockUserRequest(name="eve"))
    assert (await stack.issue("eve", made.password)).access_token


@pytest.mark.req("I3.6", "R15")
async def test_users_are_administered_by_who_may_and_recorded_without_secrets(stack: AuthnStack) -> None:
    reader = await stack.create("reader", roles=["key-reader"])
    with pytest.raises(PermissionDenied):
        await admin(stack, "ListUsers", admin_pb2.ListUsersRequest(), reader.key)
    password = "correct horse battery"
    request = admin_pb2.CreateUserRequest(name="frank", roles=["viewer"], password=password)
    assert (await admin(stack, "CreateUser", request)).password == ""
    for broken, problem in (
        (admin_pb2.CreateUserRequest(name="frank", roles=["viewer"]), "already"),
        (admin_pb2.CreateUserRequest(name="system:x", roles=["viewer"]), "identity"),
        (admin_pb2.CreateUserRequest(name="gina", roles=["viewer"], password="short"), "12 to 1024"),
        (admin_pb2.CreateUserRequest(name="gina", permissions=["k8s:*"]), "namespaces"),
        (admin_pb2.ResetPasswordRequest(name="frank", password="frank"), "12 to 1024"),
        (admin_pb2.ConfirmTotpRequest(name="frank", code="1"), "enrol-totp"),
        (admin_pb2.SetUserEnabledRequest(name="nobody"), "no user"),
    ):
        method = type(broken).__name__.removesuffix("Request")
        with pytest.raises(DomainError, match=problem):
            await admin(stack, method, broken)
    enrolled = await admin(stack, "EnrolTotp", admin_pb2.EnrolTotpRequest(name="frank"))
    events = stack.audit.of(audit_pb2.EVENT_TYPE_ADMIN)
    assert {"users.create", "users.enrol-totp", "users.list"} <= {event.action for event in events}
    written = str(stack.audit.events) + stack.authn.log
    seed = enrolled.uri.partition("secret=")[2].partition("&")[0]
    for secret in (password, seed, *enrolled.recovery_codes):
        assert secret not in written
    files = b"".join(file.read_bytes() for file in stack.authn.directory.glob("authn.db*"))
    for secret in (password, seed, *enrolled.recovery_codes):
        assert secret.encode() not in files


@pytest.mark.req("R7", "I3.5")
async def test_new_methods_have_their_callers_and_no_others(stack: AuthnStack) -> None:
    for method, request in (
        ("Introspect", authn_pb2.IntrospectRequest(token="x")),
        ("Revoke", authn_pb2.RevokeRequest(token="x")),
    ):
        for peer in ("service/authz", "service/audit", OPERATOR):
            with pytest.raises(PermissionDenied):
                await stack.ask(peer, method, request)
    for peer in (CORE, PLATFORM):
        with pytest.raises(PermissionDenied):
            await stack.peer(peer).unary(
                lambda channel: admin_pb2_grpc.UserAdminServiceStub(channel).ListUsers,
                admin_pb2.ListUsersRequest(),
                Deadline.after(5),
            )
    call: Any = authn_pb2_grpc.AuthnServiceStub(stack.peer(OPERATOR).channel()).WatchRevocations()

    async def ping() -> None:
        await call.write(authn_pb2.WatchRevocationsRequest())
        await call.read()

    with pytest.raises(aio.AioRpcError, match="may not call"):
        await ping()
