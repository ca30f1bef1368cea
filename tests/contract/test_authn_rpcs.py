"""authn as its callers see it: a real process over real mTLS gRPC, with a real authz beside it."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import jwt
import pytest
import pytest_asyncio
from grpc import aio

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2, stream_pb2
from services.common.deadline import Deadline
from services.common.errors import Code, DeadlineExceeded, PermissionDenied, Unauthenticated
from services.common.grpc_stream import StreamClient
from services.common.principal_token import PrincipalVerifier, RemotePrincipalKeys
from tests.fakes.authn_stack import CORE, AuthnStack
from tests.fakes.mesh import Mesh

AUTHENTICATION = audit_pb2.EVENT_TYPE_AUTHENTICATION


@pytest_asyncio.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthnStack]:
    stack = await AuthnStack.make(tmp_path_factory.mktemp("authn"))
    try:
        await stack.start()
        await stack.bootstrap()
        yield stack
    finally:
        await stack.stop()


@pytest.fixture(autouse=True)
def forget(stack: AuthnStack) -> None:
    stack.audit.reset()


@pytest.mark.req("I2.3", "I2.5", "R18", "R22")
async def test_an_api_key_is_answered_with_principal_token_and_record(stack: AuthnStack) -> None:
    answer = await stack.authenticate(stack.first.admin_key, request_id="r-1")
    assert (answer.principal.issuer, answer.principal.subject) == ("kubegate", "admin")
    assert list(answer.principal.roles) == ["admin"]
    assert list(answer.principal.permissions) == ["kubegate:*"]
    assert answer.principal.namespaces.all
    (recorded,) = stack.audit.events
    event = recorded.event
    assert recorded.writer == "service/authn"
    assert recorded.token == answer.principal_token
    assert event.event_id == answer.event_id
    assert event.event_type == AUTHENTICATION
    assert (event.user, event.action, event.result) == ("admin", "authenticate", audit_pb2.RESULT_SUCCESS)
    assert dict(event.metadata) == {
        "auth_type": "api_key",
        "asker": CORE,
        "credential_id": answer.principal.credential_id,
    }
    assert event.source == identity_pb2.Source(address="192.0.2.7", user_agent="test/1")
    assert event.request_id == "r-1"
    assert event.HasField("timestamp")


@pytest.mark.req("R5", "I2.7", "I3.8")
async def test_the_principal_token_is_verified_by_what_authn_publishes_and_names_its_asker(stack: AuthnStack) -> None:
    keys = RemotePrincipalKeys(stack.mesh.peer("authn", stack.authn.port, "service/authz"))
    verifier = PrincipalVerifier(keys)
    for asker in (CORE, "platform/billing", "operator/alice"):
        answer = await stack.authenticate(stack.first.viewer_key, as_=asker)
        verified = await verifier.verify(answer.principal_token)
        assert verified.principal == answer.principal
        assert verified.authorized_party == asker
    claims = jwt.decode(answer.principal_token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60
    assert claims["aud"] == "kubegate-internal"


@pytest.mark.req("R5")
async def test_keys_of_access_and_principal_tokens_differ_and_are_public_only(stack: AuthnStack) -> None:
    access = json.loads((await stack.get("GetJwks", as_=CORE)).jwks_json)["keys"]
    principal = json.loads((await stack.get("GetPrincipalKeys", as_="service/audit")).jwks_json)["keys"]
    assert {key["kid"] for key in access}.isdisjoint(key["kid"] for key in principal)
    for key in (*access, *principal):
        assert set(key) == {"kty", "crv", "x", "alg", "use", "kid"}


@pytest.mark.req("I2.3", "I2.5")
@pytest.mark.parametrize(
    ("credential", "auth_type"),
    [
        (None, "unknown"),
        ("", "unknown"),
        ("wrong", "unknown"),
        ("kg_", "api_key"),
        (f"kg_{'0' * 12}_{'0' * 43}", "api_key"),
        ("a.b.c", "jwt"),
        ("x" * 9000, "unknown"),
    ],
)
async def test_whatever_is_no_credential_is_one_and_the_same_refusal(
    stack: AuthnStack, credential: str | None, auth_type: str
) -> None:
    with pytest.raises(Unauthenticated, match=r"^Authentication failed: the credential is not valid\.$"):
        await stack.authenticate(credential)
    (event,) = stack.audit.of(AUTHENTICATION)
    assert event.result == audit_pb2.RESULT_FAILURE
    assert event.metadata["auth_type"] == auth_type
    assert event.error_message
    assert not event.user


@pytest.mark.req("R5", "I2.3")
async def test_a_principal_token_is_refused_as_credential(stack: AuthnStack) -> None:
    answer = await stack.authenticate(stack.first.admin_key)
    with pytest.raises(Unauthenticated):
        await stack.authenticate(answer.principal_token)


@pytest.mark.req("I2.3")
async def test_a_password_is_exchanged_for_a_jwt_that_authenticates(stack: AuthnStack) -> None:
    issued = await stack.issue("admin", stack.first.admin_password)
    assert issued.expires_in == 3600
    claims = jwt.decode(issued.access_token, options={"verify_signature": False})
    assert claims["aud"] == "https://localhost:8443/mcp"
    keys = jwt.PyJWKSet.from_json((await stack.get("GetJwks", as_=CORE)).jwks_json)
    jwt.decode(issued.access_token, keys.keys[0].key, algorithms=["EdDSA"], audience=claims["aud"], issuer="kubegate")
    answer = await stack.authenticate(issued.access_token)
    assert answer.principal.subject == "admin"
    assert answer.principal.auth_type == "jwt"
    assert list(answer.principal.amr) == ["pwd"]
    for name, password in (("admin", "wrong"), ("nobody", stack.first.admin_password), ("", "")):
        with pytest.raises(Unauthenticated, match="the credential is not valid"):
            await stack.issue(name, password)
    auth_types = {(event.action, event.metadata["auth_type"]) for event in stack.audit.of(AUTHENTICATION)}
    assert auth_types == {("issue_token", "password"), ("authenticate", "jwt")}


@pytest.mark.req("I2.3")
async def test_disabled_expired_and_deleted_keys_are_refused_at_once(stack: AuthnStack) -> None:
    made = await stack.create("bob", roles=["viewer"])
    assert (await stack.authenticate(made.key)).principal.subject == "bob"
    key_id = made.api_key.id
    for enabled in (False, True):
        await stack.admin("SetApiKeyEnabled", authn_pb2.SetApiKeyEnabledRequest(id=key_id, enabled=enabled))
        if enabled:
            await stack.authenticate(made.key)
        else:
            with pytest.raises(Unauthenticated):
                await stack.authenticate(made.key)
    await stack.admin("DeleteApiKey", authn_pb2.DeleteApiKeyRequest(id=key_id))
    with pytest.raises(Unauthenticated):
        await stack.authenticate(made.key)
    request = authn_pb2.CreateApiKeyRequest(identity="bob", roles=["viewer"])
    request.expires_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=1.5))
    short = await stack.admin("CreateApiKey", request)
    while datetime.now(UTC) < request.expires_at.ToDatetime(UTC):
        await asyncio.sleep(0.1)
    with pytest.raises(Unauthenticated):
        await stack.authenticate(short.key)
    errors = {event.error_message for event in stack.audit.of(AUTHENTICATION, result=audit_pb2.RESULT_FAILURE)}
    assert errors == {"disabled credential", "unknown credential", "expired credential"}


@pytest.mark.req("R25")
async def test_a_flood_of_failures_folds_and_does_not_stop_others(stack: AuthnStack) -> None:
    flood = [
        asyncio.create_task(stack.authenticate(f"kg_{number:012d}_{'0' * 43}", address="203.0.113.9"))
        for number in range(300)
    ]
    answers = await asyncio.gather(*(stack.authenticate(stack.first.viewer_key) for _ in range(20)))
    assert {answer.principal.subject for answer in answers} == {"viewer"}
    refused = await asyncio.gather(*flood, return_exceptions=True)
    assert {type(answer) for answer in refused} == {Unauthenticated}
    failures = stack.audit.of(AUTHENTICATION, result=audit_pb2.RESULT_FAILURE)
    assert sum(int(event.metadata["count"]) for event in failures) == 300
    assert len(failures) < 30


CALLERS = {
    "Authenticate": {CORE, "platform/billing", "operator/alice"},
    "IssueToken": {CORE, "platform/billing"},
    "GetJwks": {CORE, "platform/billing", "operator/alice"},
    "GetPrincipalKeys": {"service/authz", "service/audit", "platform/billing"},
}
PEERS = (CORE, "service/authz", "service/audit", "service/authn", "platform/billing", "operator/alice")


@pytest.mark.req("I2.7", "R7")
@pytest.mark.parametrize("method", CALLERS)
async def test_each_method_has_its_callers_and_no_others(stack: AuthnStack, method: str) -> None:
    for peer in PEERS:
        request = getattr(authn_pb2, f"{method}Request")()
        try:
            await stack.ask(peer, method, request, 10)
        except PermissionDenied:
            assert peer not in CALLERS[method]
        except Unauthenticated:
            assert peer in CALLERS[method]
        else:
            assert peer in CALLERS[method]


@pytest.mark.req("I2.7", "R7")
async def test_strangers_do_not_get_through_the_handshake(stack: AuthnStack, tmp_path: Any) -> None:
    address = f"127.0.0.1:{stack.authn.port}"
    stranger = Mesh(tmp_path).tls(CORE)
    ours = stack.mesh.tls(CORE)
    credentials = {
        "plaintext": None,
        "no client certificate": grpc.ssl_channel_credentials(ours.ca_file.read_bytes()),
        "certificate of another CA": grpc.ssl_channel_credentials(
            ours.ca_file.read_bytes(), stranger.key_file.read_bytes(), stranger.cert_file.read_bytes()
        ),
    }
    for name, each in credentials.items():
        options = [("grpc.ssl_target_name_override", "authn.kubegate.internal")]
        channel = aio.insecure_channel(address) if each is None else aio.secure_channel(address, each, options)
        async with channel:
            with pytest.raises(aio.AioRpcError) as caught:
                await authn_pb2_grpc.AuthnServiceStub(channel).GetJwks(authn_pb2.GetJwksRequest(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, name


def item(number: int, token: str, timeout_ms: int = 10_000) -> authn_pb2.AuthenticateItem:
    return authn_pb2.AuthenticateItem(
        header=stream_pb2.ItemHeader(id=number, timeout_ms=timeout_ms, request_id=f"item-{number}"),
        request=authn_pb2.AuthenticateRequest(credential=authn_pb2.Credential(token=token)),
    )


@pytest.mark.req("R8", "I2.8")
async def test_a_stream_answers_each_item_by_its_own_deadline_and_error(stack: AuthnStack) -> None:
    """One item fails, one waits beyond its deadline for a record that audit holds, the others are answered."""
    stub = authn_pb2_grpc.AuthnServiceStub(stack.peer(CORE).channel())
    stream: Any = stub.AuthenticateStream(timeout=30)
    items = [item(1, stack.first.admin_key), item(2, "wrong"), item(3, stack.first.viewer_key)]
    await stream.write(authn_pb2.AuthenticateStreamRequest(items=items))
    answers: dict[int, authn_pb2.AuthenticateAnswer] = {}
    while len(answers) < 3:
        answers.update({answer.id: answer for answer in (await stream.read()).answers})
    assert answers[1].response.principal.subject == "admin"
    assert answers[2].error.code == Code.UNAUTHENTICATED
    assert answers[3].response.principal.subject == "viewer"
    assert {event.request_id for event in stack.audit.of(AUTHENTICATION)} == {"item-1", "item-2", "item-3"}

    stack.audit.release.clear()
    both = [item(4, stack.first.admin_key, 300), item(5, stack.first.admin_key, 20_000)]
    await stream.write(authn_pb2.AuthenticateStreamRequest(items=both))
    (late,) = (await stream.read()).answers
    assert (late.id, late.error.code) == (4, Code.DEADLINE_EXCEEDED)
    stack.audit.release.set()
    (last,) = (await stream.read()).answers
    assert (last.id, last.response.principal.subject) == (5, "admin")
    await stream.done_writing()
    assert await stream.read() is aio.EOF


@pytest.mark.req("R8", "I2.8")
async def test_many_questions_fly_on_one_stream(stack: AuthnStack) -> None:
    client: StreamClient[Any, Any] = StreamClient(
        stack.peer(CORE),
        lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).AuthenticateStream,
        authn_pb2.AuthenticateStreamRequest,
        authn_pb2.AuthenticateItem,
    )
    try:

        async def ask(number: int) -> Any:
            token = stack.first.admin_key if number % 2 else "wrong"
            request = authn_pb2.AuthenticateRequest(credential=authn_pb2.Credential(token=token))
            return await client.ask(request, Deadline.after(20))

        answers = await asyncio.gather(*(ask(number) for number in range(200)), return_exceptions=True)
    finally:
        await client.close()
    for number, answer in enumerate(answers):
        if isinstance(answer, BaseException):
            assert type(answer) is Unauthenticated
            assert number % 2 == 0
        else:
            assert answer.principal.subject == "admin"
            assert number % 2 == 1


@pytest.mark.req("R8")
async def test_a_unary_call_ends_with_its_deadline(stack: AuthnStack) -> None:
    stack.audit.release.clear()
    slow = asyncio.create_task(stack.authenticate(stack.first.admin_key, seconds=20))
    with pytest.raises(DeadlineExceeded):
        await stack.authenticate(stack.first.admin_key, seconds=0.5)
    stack.audit.release.set()
    assert (await slow).principal.subject == "admin"


async def test_no_secret_is_in_logs_records_or_store(stack: AuthnStack) -> None:
    wrong = f"kg_{'7' * 12}_{'S' * 43}"
    issued = await stack.issue("admin", stack.first.admin_password)
    for token in (wrong, issued.access_token + "x", "very-secret-junk"):
        with pytest.raises(Unauthenticated):
            await stack.authenticate(token)
    records = "".join(str(each.event) for each in stack.audit.events)
    files = b"".join(file.read_bytes() for file in stack.authn.directory.glob("authn.db*"))
    for secret in (
        stack.first.admin_key.rpartition("_")[2],
        stack.first.admin_password,
        "S" * 43,
        issued.access_token,
        "very-secret-junk",
    ):
        assert secret not in stack.authn.log
        assert secret not in records
        assert secret.encode() not in files
