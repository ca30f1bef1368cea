"""authz over real mTLS gRPC: decisions, their records, whose tokens it takes, and how a policy is replaced."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import aio

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authz.policy.parse import revision_of
from services.common.deadline import Deadline
from services.common.errors import DomainError, InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from services.common.grpc_stream import StreamClient
from services.mcp_core.adapters.authz import AuthzAdapter
from services.mcp_core.model import Action, Caller, Permission, Principal, RequestContext, Scopes, Source
from tests.contract.authz_world import World, running, until

POLICY = (Path(__file__).parents[1] / "golden" / "rbac-policies.yaml").read_text()
AUTHORIZATION = audit_pb2.EVENT_TYPE_AUTHORIZATION
VIOLATION = audit_pb2.EVENT_TYPE_SECURITY_VIOLATION
ADMIN = audit_pb2.EVENT_TYPE_ADMIN


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, POLICY) as world:
        yield world


def expiry(token: str) -> int:
    claims: dict[str, int] = jwt.decode(token, options={"verify_signature": False})
    return claims["exp"]


def pods(verb: str = "list", namespace: str = "default", subresource: str = "") -> identity_pb2.Action:
    return identity_pb2.Action(
        cluster="default",
        verb=verb,
        resource="pods",
        subresource=subresource,
        namespace=namespace,
        tool=f"{verb}_pods",
    )


@pytest.mark.req("R18", "I2.4", "I2.5")
async def test_an_allowed_action_is_answered_with_its_rule_and_recorded(world: World) -> None:
    token = world.keys.token(roles=["viewer"])
    response = await world.check(token, pods())
    assert response.allowed.rule_id == "role:viewer#1"
    assert response.allowed.role == "viewer"
    assert response.allowed.cacheable_until.seconds == expiry(token), "as long as the token and no longer (R11)"
    assert response.lease_revision == 1
    assert response.policy_revision == revision_of(POLICY.encode())
    [event] = world.log.events(AUTHORIZATION)
    assert event.event_id == response.event_id
    assert event.user == "alice"
    assert (event.action, event.resource, event.namespace) == ("list_pods", "pods", "default")
    assert event.result == audit_pb2.RESULT_SUCCESS
    assert event.metadata["permission_check"] == "k8s:pods:list"
    assert event.metadata["asked_by"] == "service/mcp-core"
    assert event.decision == audit_pb2.Decision(
        allowed=True,
        rule="role:viewer#1",
        policy_revision=response.policy_revision,
        permission="k8s:pods:list",
    )
    assert (event.request_id, event.source.address) == ("req-1", "192.0.2.1")
    assert world.log.appended[-1].principal_token == token, "so that audit verifies the user itself (R22)"


@pytest.mark.req("R18", "I2.4", "I2.5")
async def test_a_denial_is_an_answer_that_says_what_is_missing_and_is_recorded(world: World) -> None:
    action = identity_pb2.Action(
        verb="scale", group="apps", resource="deployments", subresource="scale", namespace="default", name="nginx"
    )
    response = await world.check(world.keys.token(roles=["viewer"]), action)
    assert response.denied.reason == authz_pb2.DENIAL_REASON_NO_GRANT
    assert response.denied.missing == authz_pb2.Grant(permission="k8s:deployments:scale", namespace="default")
    assert "k8s:deployments:scale in namespace default is not allowed" in response.denied.explanation
    [event] = world.log.events(AUTHORIZATION)
    assert event.event_id == response.event_id
    assert event.result == audit_pb2.RESULT_FAILURE
    assert event.resource == "deployments.apps/nginx/scale"
    assert event.error_message == response.denied.explanation
    assert (event.decision.allowed, event.decision.rule) == (False, "denied:no_grant")


@pytest.mark.req("R10")
async def test_an_action_outside_the_table_is_denied_and_its_record_is_bounded(world: World) -> None:
    action = identity_pb2.Action(verb="exec\n", resource="pods" * 500, namespace="*")
    response = await world.check(world.keys.token(permissions=["k8s:*"]), action)
    assert response.denied.reason == authz_pb2.DENIAL_REASON_INVALID_ACTION
    assert not response.denied.HasField("missing")
    [event] = world.log.events(AUTHORIZATION)
    assert len(event.resource) == 256
    assert event.metadata["verb"] == "exec?"


@pytest.mark.req("R4")
async def test_a_credentials_cap_is_a_denial_of_its_own_kind(world: World) -> None:
    token = world.keys.token(roles=["admin"], namespaces=identity_pb2.NamespaceScope(patterns=["default", "BAD*"]))
    assert (await world.check(token, pods())).HasField("allowed")
    denied = (await world.check(token, pods(namespace="production"))).denied
    assert denied.reason == authz_pb2.DENIAL_REASON_CREDENTIAL_CAP
    nowhere = world.keys.token(roles=["admin"], namespaces=identity_pb2.NamespaceScope())
    assert (await world.check(nowhere, pods())).denied.reason == authz_pb2.DENIAL_REASON_CREDENTIAL_CAP


@pytest.mark.req("R18", "R8")
async def test_stream_and_unary_answer_alike_and_both_are_recorded(world: World) -> None:
    stream: StreamClient[authz_pb2.CheckRequest, authz_pb2.CheckResponse] = StreamClient(
        world.peer(),
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).CheckStream,
        authz_pb2.CheckStreamRequest,
        authz_pb2.CheckItem,
    )
    token = world.keys.token(roles=["viewer"])
    asked = [pods("list"), pods("delete"), pods("logs", subresource="log"), pods(namespace="staging")]
    requests = [authz_pb2.CheckRequest(principal_token=token, action=action) for action in asked]
    bad = authz_pb2.CheckRequest(principal_token="not.a.token", action=pods())
    *answers, refused = await asyncio.gather(
        *(stream.ask(request, Deadline.after(10)) for request in [*requests, bad]), return_exceptions=True
    )
    assert isinstance(refused, Unauthenticated)
    for action, answer in zip(asked, answers, strict=True):
        assert isinstance(answer, authz_pb2.CheckResponse)
        unary = await world.check(token, action)
        assert unary.WhichOneof("outcome") == answer.WhichOneof("outcome")
        assert unary.allowed == answer.allowed
        assert unary.denied == answer.denied
    assert len([event for event in world.log.events(AUTHORIZATION) if event.action != "check"]) == 8
    await stream.close()


@pytest.mark.req("R18", "R8", "I5.3")
async def test_batches_on_a_stream_answer_as_one_by_one_and_are_recorded(world: World) -> None:
    stream: StreamClient[authz_pb2.BatchCheckRequest, authz_pb2.BatchCheckResponse] = StreamClient(
        world.peer(),
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).BatchCheckStream,
        authz_pb2.BatchCheckStreamRequest,
        authz_pb2.BatchCheckItem,
    )
    token = world.keys.token(roles=["viewer"])
    asked = [pods("list"), pods("delete"), pods(namespace="staging")]

    def batch(actions: list[identity_pb2.Action], by: str = token) -> authz_pb2.BatchCheckRequest:
        return authz_pb2.BatchCheckRequest(principal_token=by, actions=actions)

    requests = [batch(asked), batch(asked * 20), batch(asked * 34), batch([]), batch(asked, "not.a.token")]
    one, many, too_many, none, forged = await asyncio.gather(
        *(stream.ask(request, Deadline.after(10)) for request in requests), return_exceptions=True
    )
    assert isinstance(too_many, InvalidArgument)
    assert isinstance(none, InvalidArgument)
    assert isinstance(forged, Unauthenticated)
    for count, answer in ((1, one), (20, many)):
        assert isinstance(answer, authz_pb2.BatchCheckResponse)
        assert [each.WhichOneof("outcome") for each in answer.responses] == ["allowed", "denied", "denied"] * count
    events = [event for event in world.log.events(AUTHORIZATION) if event.action == "batch_check"]
    assert len(events) == 2
    await stream.close()


@pytest.mark.req("R18", "I2.6")
async def test_without_a_record_there_is_no_decision(world: World) -> None:
    token = world.keys.token(roles=["viewer"])
    world.log.away = True
    with pytest.raises(Unavailable):
        await world.check(token, pods())
    with pytest.raises(DomainError):
        await world.check("not.a.token", pods())
    world.log.away = False
    assert (await world.check(token, pods())).HasField("allowed")


@pytest.mark.req("R5", "I2.7")
async def test_a_token_issued_to_another_peer_is_refused_and_recorded_as_a_violation(world: World) -> None:
    stolen = world.keys.token(azp="service/mcp-core", roles=["admin"])
    for thief in ("platform/billing", "service/authn"):
        with pytest.raises(Unauthenticated):
            await world.check(stolen, pods(), as_=thief)
    with pytest.raises(Unauthenticated):
        await world.list_allowed(stolen, pods(), as_="platform/billing")
    events = world.log.events(VIOLATION)
    assert [event.metadata["asked_by"] for event in events] == [
        "platform/billing",
        "service/authn",
        "platform/billing",
    ]
    assert {event.user for event in events} == {"alice"}
    assert {event.metadata["violation_type"] for event in events} == {"principal_token_of_another_peer"}
    assert not world.log.events(AUTHORIZATION)
    own = world.keys.token(azp="platform/billing", roles=["admin"])
    assert (await world.check(own, pods(), as_="platform/billing")).HasField("allowed")


@pytest.mark.req("R5")
async def test_a_token_that_authn_did_not_sign_just_now_is_refused_and_recorded(world: World) -> None:
    past = datetime.now(UTC) - timedelta(seconds=61)
    bad = [
        "",
        "not.a.token",
        world.keys.token(roles=["admin"], now=past),
        world.keys.token(roles=["admin"], key=Ed25519PrivateKey.generate()),
        world.keys.token(roles=["admin"], subject=""),
        world.keys.token(roles=["admin"], issuer=""),
    ]
    for token in bad:
        with pytest.raises(Unauthenticated):
            await world.check(token, pods())
    events = world.log.events(AUTHORIZATION)
    assert len(events) == len(bad)
    assert all(event.result == audit_pb2.RESULT_FAILURE and not event.user for event in events)


@pytest.mark.req("R25")
async def test_a_flood_of_bad_tokens_becomes_counted_events(world: World) -> None:
    await asyncio.gather(*(world.check("bad", pods()) for _ in range(40)), return_exceptions=True)
    events = world.log.events(AUTHORIZATION)
    assert len(events) < 40
    assert sum(int(event.metadata["count"]) for event in events) == 40


def admin_action(area: str, verb: str) -> identity_pb2.Action:
    return identity_pb2.Action(group="kubegate", resource=area, verb=verb, tool="CreateApiKey")


@pytest.mark.req("R15", "R5")
async def test_services_relay_operators_about_their_own_areas_only(world: World) -> None:
    admin = world.keys.token(azp="operator/admin", permissions=["kubegate:*", "k8s:*"])
    assert (await world.check(admin, admin_action("keys", "create"), "service/authn")).allowed.rule_id == "direct#1"
    assert (await world.check(admin, admin_action("audit", "read"), "service/audit")).HasField("allowed")
    for peer, action in (
        ("service/authn", admin_action("audit", "read")),
        ("service/audit", admin_action("keys", "create")),
        ("service/authn", pods()),
        ("service/mcp-core", admin_action("keys", "create")),
        ("platform/billing", admin_action("keys", "create")),
    ):
        with pytest.raises(Unauthenticated):
            await world.check(admin, action, peer)
    viewer = world.keys.token(azp="operator/admin", roles=["admin"])
    denied = await world.check(viewer, admin_action("keys", "create"), "service/authn")
    assert denied.denied.missing.permission == "kubegate:keys:create"


@pytest.mark.req("R7", "I2.7")
async def test_operators_do_not_ask_authz_and_authn_does_not_stream(world: World) -> None:
    token = world.keys.token(azp="operator/admin", roles=["admin"])
    with pytest.raises(PermissionDenied):
        await world.check(token, pods(), "operator/admin")
    with pytest.raises(PermissionDenied):
        await world.list_allowed(token, pods(), as_="service/authn")
    call = authz_pb2_grpc.AuthzServiceStub(world.peer("service/authn").channel()).CheckStream()
    with pytest.raises(aio.AioRpcError) as error:
        await call.read()
    assert "may not call" in (error.value.details() or "")


@pytest.mark.req("I2.4")
async def test_list_allowed_says_where_and_leaves_no_record(world: World) -> None:
    namespaces = identity_pb2.Action(verb="list", resource="namespaces")
    token = world.keys.token(roles=["developer", "viewer"])
    response = await world.list_allowed(token, pods(), pods("delete"), namespaces)
    assert [list(scope.patterns) for scope in response.scopes] == [["default", "development", "feature-*"], [], []]
    assert not any(scope.all for scope in response.scopes)
    assert response.policy_revision == revision_of(POLICY.encode())
    everything = await world.list_allowed(world.keys.token(roles=["admin"]), pods(), namespaces)
    assert [scope.all for scope in everything.scopes] == [True, True]
    assert not world.log.events(AUTHORIZATION)
    with pytest.raises(InvalidArgument):
        await world.list_allowed(token, *[pods()] * 1025)


@pytest.mark.req("I6.8", "I7.1")
async def test_the_core_asks_about_more_kinds_and_clusters_than_one_question_holds(world: World) -> None:
    adapter = AuthzAdapter(world.peer())
    context = RequestContext("r", "0" * 32, "mcp", Source("192.0.2.1"), Deadline.after(10))
    caller = Caller(context, Principal("kubegate", "alice"), world.keys.token(roles=["developer", "viewer"]))
    may, may_not = (Action("", Permission(verb, "", "pods"), "list_pods") for verb in ("list", "delete"))
    scopes = await adapter.list_allowed(caller, [may_not] * 1500 + [may] * 1500)
    assert [bool(scope) for scope in scopes.each] == [False] * 1500 + [True] * 1500
    assert scopes.lease_revision > 0
    assert await adapter.list_allowed(caller, []) == Scopes(())
    await adapter.close()


@pytest.mark.req("I2.11")
async def test_a_changed_policy_is_adopted_whole_and_a_broken_one_never_widens_anything(world: World) -> None:
    token = world.keys.token(roles=["viewer"])

    async def replaced(text: str | None, events: int) -> None:
        world.replace_policy(text)
        await until(lambda: len(world.log.events(ADMIN)) == events)

    first = world.log.events(ADMIN)
    assert [(e.action, e.result, e.metadata["revision"]) for e in first] == [
        ("policy.load", audit_pb2.RESULT_SUCCESS, revision_of(POLICY.encode()))
    ]
    # The end marker says that what is missing is meant to be gone, not cut off.
    narrowed = "roles:\n  - name: viewer\n    permissions: [k8s:pods:logs]\n...\n"
    await replaced(narrowed, 2)
    response = await world.check(token, pods())
    assert response.HasField("denied")
    assert response.policy_revision == revision_of(narrowed.encode())
    assert world.log.events(ADMIN)[1].metadata["previous_revision"] == revision_of(POLICY.encode())

    await replaced("roles:\n  - name: viewer\n    permissions: [k8s:*]\n    namespace: [default]\n", 3)
    event = world.log.events(ADMIN)[2]
    assert event.result == audit_pb2.RESULT_FAILURE
    assert "policy:4:5: unknown key 'namespace'" in event.error_message
    assert (await world.check(token, pods())).policy_revision == revision_of(narrowed.encode())

    await replaced("", 4)
    await replaced(None, 5)
    assert "cannot be read: No such file" in world.log.events(ADMIN)[4].error_message
    assert (await world.check(token, pods())).HasField("denied")

    await replaced(POLICY + "...\n", 6)
    assert (await world.check(token, pods())).HasField("allowed")


@pytest.mark.req("I2.11")
async def test_a_change_of_policy_waits_for_no_one_and_its_record_comes_when_audit_does(world: World) -> None:
    world.log.away = True
    world.replace_policy("roles: []\n...\n")
    revision = revision_of(b"roles: []\n...\n")

    async def adopted() -> bool:
        response = await world.list_allowed(world.keys.token(roles=["admin"]), pods())
        return response.policy_revision == revision and not response.scopes[0].all

    async with asyncio.timeout(20):
        while not await adopted():
            await asyncio.sleep(0.05)
    assert len(world.log.events(ADMIN)) == 1
    world.log.away = False
    await until(lambda: len(world.log.events(ADMIN)) == 2)
