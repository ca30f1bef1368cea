"""authz's administration over real mTLS: policy, elevations, batches, explanations and the lease."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc, elevation_pb2, elevation_pb2_grpc
from kubegate.authz.v1 import policy_admin_pb2 as policy_pb2
from kubegate.authz.v1 import policy_admin_pb2_grpc as policy_grpc
from kubegate.common.v1 import identity_pb2, lease_pb2
from services.authz.policy.parse import revision_of
from services.common.deadline import Deadline
from services.common.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.common.grpc_server import NOTICES_METADATA
from services.common.runtime_errors import StartupError
from tests.contract.authz_world import ADMIN, World, running, until

POLICY = """
roles:
  - {name: viewer, permissions: ["k8s:pods:list"], namespaces: [default]}
  - {name: deleter, permissions: ["k8s:pods:delete"], namespaces: [default, staging]}
  - {name: asker, permissions: ["kubegate:elevations:request"]}
  - {name: boss, permissions: ["k8s:*", "kubegate:*"]}
  - {name: small-boss, permissions: ["kubegate:*"]}
deny:
  - {name: frozen, permissions: ["k8s:pods:*"], namespaces: [frozen]}
"""
AUTHORIZATION = audit_pb2.EVENT_TYPE_AUTHORIZATION


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, POLICY) as world:
        yield world


def pods(verb: str, namespace: str, name: str = "") -> identity_pb2.Action:
    return identity_pb2.Action(verb=verb, resource="pods", namespace=namespace, name=name)


class Desk:
    """Elevations as people use them, each with an operator's certificate."""

    def __init__(self, world: World) -> None:
        self.world = world

    def token(self, subject: str, *roles: str, **more: Any) -> str:
        return self.world.keys.token(azp="operator/admin", subject=subject, roles=roles, **more)

    async def request(
        self, token: str, role: str = "deleter", namespaces: tuple[str, ...] = ("staging",), minutes: int = 10
    ) -> elevation_pb2.Elevation:
        request = elevation_pb2.RequestElevationRequest(
            role=role,
            namespaces=identity_pb2.NamespaceScope(patterns=namespaces),
            duration=Duration(seconds=minutes * 60),
            justification="incident 7",
        )
        response = await self._ask("RequestElevation", request, token)
        return response.elevation  # type: ignore[no-any-return]

    async def approve(self, elevation_id: str, token: str) -> elevation_pb2.Elevation:
        response = await self._ask("ApproveElevation", elevation_pb2.ApproveElevationRequest(id=elevation_id), token)
        return response.elevation  # type: ignore[no-any-return]

    async def revoke(self, elevation_id: str, token: str) -> elevation_pb2.Elevation:
        response = await self._ask("RevokeElevation", elevation_pb2.RevokeElevationRequest(id=elevation_id), token)
        return response.elevation  # type: ignore[no-any-return]

    async def list(self, token: str, *, open_only: bool = False) -> list[elevation_pb2.Elevation]:
        request = elevation_pb2.ListElevationsRequest(open_only=open_only)
        return list((await self._ask("ListElevations", request, token)).elevations)

    async def _ask(self, method: str, request: Any, token: str) -> Any:
        return await self.world.ask(elevation_pb2_grpc.ElevationServiceStub, method, request, token)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


async def ping(world: World, call: Any, sequence: int) -> authz_pb2.WatchPolicyResponse:
    await call.write(authz_pb2.WatchPolicyRequest(ping=lease_pb2.LeasePing(sequence=sequence)))
    answer: authz_pb2.WatchPolicyResponse = await call.read()
    assert answer.answer.sequence == sequence
    return answer


@pytest.mark.req("R17", "I5.5", "R12")
async def test_an_elevation_is_asked_for_approved_by_another_used_and_revoked(world: World, desk: Desk) -> None:
    watch = authz_pb2_grpc.AuthzServiceStub(world.peer().channel()).WatchPolicy()
    alice = world.keys.token(subject="alice", roles=["viewer"])
    delete = pods("delete", "staging", "web")
    before = (await ping(world, watch, 1)).answer.revision
    asked = await desk.request(desk.token("alice", "asker"))
    assert asked.state == elevation_pb2.ELEVATION_STATE_REQUESTED
    assert (await world.check(alice, delete)).HasField("denied"), "asking gives nothing"

    approved = await desk.approve(asked.id, desk.token("bob", "boss"))
    assert approved.state == elevation_pb2.ELEVATION_STATE_ACTIVE
    assert approved.approved_by == "kubegate:bob"
    newer = (await ping(world, watch, 2)).answer.revision
    assert newer > before
    allowed = await world.check(alice, delete)
    assert allowed.allowed.rule_id == f"elevation:{asked.id}:role:deleter#1"
    assert allowed.allowed.role == "deleter"
    assert allowed.lease_revision == newer
    assert (await world.check(alice, pods("delete", "default", "web"))).HasField("denied"), (
        "only where it was asked for"
    )
    mallory = world.keys.token(subject="alice", issuer="https://idp.example", roles=["viewer"])
    assert (await world.check(mallory, delete)).HasField("denied")

    revoked = await desk.revoke(asked.id, desk.token("bob", "boss"))
    assert revoked.state == elevation_pb2.ELEVATION_STATE_REVOKED
    assert (await world.check(alice, delete)).HasField("denied"), "at once"
    assert (await ping(world, watch, 3)).answer.revision > newer, "and in every cache with its next ping"
    with pytest.raises(Conflict):
        await desk.revoke(asked.id, desk.token("bob", "boss"))
    with pytest.raises(Conflict):
        await desk.approve(asked.id, desk.token("bob", "boss"))
    watch.cancel()

    acts = [each for each in world.log.events(ADMIN) if each.action.startswith("elevations.")]
    done = [(each.action, each.phase, each.user, each.result) for each in acts]
    for action, user in (("request", "alice"), ("approve", "bob"), ("revoke", "bob")):
        assert (f"elevations.{action}", audit_pb2.PHASE_INTENT, user, audit_pb2.RESULT_UNKNOWN) in done
        assert (f"elevations.{action}", audit_pb2.PHASE_OUTCOME, user, audit_pb2.RESULT_SUCCESS) in done
    assert acts[0].metadata["justification"] == "incident 7"
    assert acts[0].metadata["for"] == "kubegate:alice"


@pytest.mark.req("R17", "I5.5")
async def test_nobody_approves_their_own_nor_beyond_what_they_hold(world: World, desk: Desk) -> None:
    asked = await desk.request(desk.token("alice", "asker"))
    with pytest.raises(PermissionDenied, match="own"):
        await desk.approve(asked.id, desk.token("alice", "boss"))  # another credential, the same person
    with pytest.raises(PermissionDenied, match="beyond what they hold: k8s:pods:delete"):
        await desk.approve(asked.id, desk.token("carol", "small-boss"))
    with pytest.raises(PermissionDenied, match="kubegate:elevations:approve"):
        await desk.approve(asked.id, desk.token("dave", "viewer", "deleter"))
    capped = desk.token("erin", "boss", "deleter", namespaces=identity_pb2.NamespaceScope(patterns=["default"]))
    with pytest.raises(PermissionDenied):
        await desk.approve(asked.id, capped)
    assert (await desk.approve(asked.id, desk.token("frank", "small-boss", "deleter"))).approved_by == "kubegate:frank"
    refused = [each for each in world.log.events(ADMIN) if each.result == audit_pb2.RESULT_FAILURE]
    assert [each.user for each in refused] == ["alice", "carol"], "denials by policy are authorization events"
    assert {each.error_message for each in refused} == {"permission_denied"}
    assert "own" in refused[0].metadata["reason"]


@pytest.mark.req("R25", "R18")
async def test_a_flood_of_refused_acts_becomes_counted_events(world: World, desk: Desk) -> None:
    asked = await desk.request(desk.token("alice", "asker"))
    token = desk.token("alice", "boss")
    tries = [desk.approve(asked.id, token) for _ in range(20)]
    assert {type(each) for each in await asyncio.gather(*tries, return_exceptions=True)} == {PermissionDenied}
    refused = [each for each in world.log.events(ADMIN) if each.result == audit_pb2.RESULT_FAILURE]
    assert len(refused) < 20
    assert sum(int(each.metadata["count"]) for each in refused) == 20


@pytest.mark.req("R17", "R18", "I3.5")
async def test_who_acts_for_another_asks_approves_and_ends_nothing(world: World, desk: Desk) -> None:
    """alice asks as herself, and holds a token of bob's besides, with which she acts for him."""
    asked = await desk.request(desk.token("alice", "boss"))
    for_bob = desk.token("bob", "boss", actors=[("kubegate", "alice")])
    acts: list[Callable[[], Awaitable[Any]]] = [
        lambda: desk.approve(asked.id, for_bob),
        lambda: desk.revoke(asked.id, for_bob),
        lambda: desk.request(for_bob),
    ]
    for act in acts:
        with pytest.raises(PermissionDenied, match="use a token of your own"):
            await act()
        told = world.log.appended[-1].event
        assert (told.event_type, told.result, told.user) == (AUTHORIZATION, audit_pb2.RESULT_FAILURE, "bob")
        assert told.decision.rule == "denied:delegated"
        assert json.loads(told.metadata["principal"])["actors"] == [["kubegate", "alice"]]
    [listed] = await desk.list(for_bob)
    assert listed.state == elevation_pb2.ELEVATION_STATE_REQUESTED, "to look on is no harm"
    assert (await desk.approve(asked.id, desk.token("bob", "boss"))).approved_by == "kubegate:bob"


@pytest.mark.req("R17")
async def test_an_elevation_that_was_lent_cannot_be_lent_on(world: World, desk: Desk) -> None:
    first = await desk.request(desk.token("carol", "asker"))
    await desk.approve(first.id, desk.token("bob", "boss"))
    second = await desk.request(desk.token("alice", "asker"))
    with pytest.raises(PermissionDenied, match="beyond"):
        await desk.approve(second.id, desk.token("carol", "small-boss"))


@pytest.mark.req("R17")
async def test_of_two_approvals_at_once_one_wins_and_what_is_unrecorded_is_taken_back(world: World, desk: Desk) -> None:
    asked = await desk.request(desk.token("alice", "asker"))
    tries = [desk.approve(asked.id, desk.token(name, "boss")) for name in ("bob", "carol")]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == ["Conflict", "Elevation"]
    lost = [each for each in world.log.events(ADMIN) if each.result == audit_pb2.RESULT_ERROR]
    assert [(each.phase, each.error_message) for each in lost] == [(audit_pb2.PHASE_OUTCOME, "aborted")]

    other = await desk.request(desk.token("dave", "asker"))
    world.log.refuse = lambda event: event.phase == audit_pb2.PHASE_OUTCOME
    with pytest.raises(Unavailable, match="Nothing was changed"):
        await desk.approve(other.id, desk.token("bob", "boss"))
    world.log.refuse = lambda event: False
    dave = world.keys.token(subject="dave", roles=["viewer"])
    assert (await world.check(dave, pods("delete", "staging", "x"))).HasField("denied")


@pytest.mark.req("I5.5")
async def test_bad_wishes_are_refused_in_words(desk: Desk) -> None:
    alice = desk.token("alice", "asker")
    with pytest.raises(InvalidArgument, match="no role of this name"):
        await desk.request(alice, role="root")
    with pytest.raises(InvalidArgument, match="names its namespaces"):
        await desk.request(alice, namespaces=())
    with pytest.raises(InvalidArgument, match="not a namespace name"):
        await desk.request(alice, namespaces=("BAD",))
    with pytest.raises(InvalidArgument, match="1 minute to 24 hours"):
        await desk.request(alice, minutes=25 * 60)
    with pytest.raises(NotFound):
        await desk.approve("nonsense", desk.token("bob", "boss"))
    for _ in range(20):
        await desk.request(alice)
    with pytest.raises(ResourceExhausted):
        await desk.request(alice)


@pytest.mark.req("R15", "I5.5", "I5.3")
async def test_administration_needs_the_operators_certificate_and_a_token_of_its_own(world: World, desk: Desk) -> None:
    asked = await desk.request(desk.token("alice", "asker"))
    stub, policy = elevation_pb2_grpc.ElevationServiceStub, policy_grpc.PolicyAdminServiceStub
    approve = elevation_pb2.ApproveElevationRequest(id=asked.id)
    for peer in ("service/mcp-core", "platform/billing", "service/authn"):
        own = world.keys.token(azp=peer, subject="bob", roles=["boss"])
        with pytest.raises(PermissionDenied, match="may not call"):
            await world.ask(stub, "ApproveElevation", approve, own, peer)
        with pytest.raises(PermissionDenied, match="may not call"):
            await world.ask(policy, "ReloadPolicy", policy_pb2.ReloadPolicyRequest(), own, peer)
    for token in ("", world.keys.token(azp="service/mcp-core", subject="bob", roles=["boss"])):
        with pytest.raises(Unauthenticated):
            await world.ask(stub, "ApproveElevation", approve, token)
        with pytest.raises(Unauthenticated):
            await world.ask(policy, "GetPolicy", policy_pb2.GetPolicyRequest(), token)
    plain = world.keys.token(azp="operator/admin", permissions=["k8s:*"])
    for method, request in (
        ("GetPolicy", policy_pb2.GetPolicyRequest()),
        ("ValidatePolicy", policy_pb2.ValidatePolicyRequest()),
        ("ReloadPolicy", policy_pb2.ReloadPolicyRequest()),
        ("DiffPolicy", policy_pb2.DiffPolicyRequest()),
        ("ExplainPrincipal", policy_pb2.ExplainPrincipalRequest()),
    ):
        with pytest.raises(PermissionDenied, match="kubegate:policy:"):
            await world.ask(policy, method, request, plain)


@pytest.mark.req("I5.3", "I5.6")
async def test_the_policy_is_read_validated_reloaded_and_compared(world: World) -> None:
    token = world.keys.token(azp="operator/admin", subject="bob", roles=["boss"])
    stub = policy_grpc.PolicyAdminServiceStub

    async def ask(method: str, request: Any) -> Any:
        return await world.ask(stub, method, request, token)

    current = await ask("GetPolicy", policy_pb2.GetPolicyRequest())
    assert (current.content, current.revision) == (POLICY.encode(), revision_of(POLICY.encode()))
    assert not current.rejected
    invalid = await ask("ValidatePolicy", policy_pb2.ValidatePolicyRequest(content=b"roles: 1\n"))
    assert [(each.line, each.column) for each in invalid.problems] == [(1, 8)]

    wider = POLICY.replace("namespaces: [default]}", "namespaces: [default, other]}")
    compared = await ask("DiffPolicy", policy_pb2.DiffPolicyRequest(candidate=wider.encode()))
    changes = {(each.who, each.permission, *each.after.patterns) for each in compared.changes}
    assert ("role viewer", "k8s:pods:list", "default", "other") in changes
    assert {each.who for each in compared.changes} == {"role viewer"}

    world.replace_policy(wider)
    reloaded = await ask("ReloadPolicy", policy_pb2.ReloadPolicyRequest())
    assert reloaded.revision == revision_of(wider.encode())
    alice = world.keys.token(roles=["viewer"])
    assert (await world.check(alice, pods("list", "other"))).HasField("allowed")
    world.replace_policy("roles: [")
    reloaded = await ask("ReloadPolicy", policy_pb2.ReloadPolicyRequest())
    assert (reloaded.revision, len(reloaded.problems)) == (revision_of(wider.encode()), 1)
    assert (await ask("GetPolicy", policy_pb2.GetPolicyRequest())).rejected

    call = health_pb2_grpc.HealthStub(world.peer().channel()).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert (await call).status == health_pb2.HealthCheckResponse.SERVING, "decisions go on"
    notices = dict(await call.trailing_metadata())[NOTICES_METADATA]
    assert b"the policy file is unusable" in notices


@pytest.mark.req("I5.3", "R13")
async def test_explanations_are_for_oneself_or_with_the_right_for_anybody(world: World) -> None:
    alice = world.keys.token(roles=["viewer"], subject="alice")
    response = await world.peer().unary(
        lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Explain,
        authz_pb2.ExplainRequest(principal_token=alice, action=pods("list", "frozen")),
        Deadline.after(10),
    )
    assert response.decision.denied.rule_id == "deny:frozen"
    assert [each.rule_id for each in response.considered] == ["deny:frozen", "role:viewer#1"]
    assert not response.decision.event_id
    assert not world.log.events(AUTHORIZATION)

    request = policy_pb2.ExplainPrincipalRequest(
        principal=identity_pb2.Principal(subject="carol", roles=["viewer"], tenant="other"),
        action=pods("list", "default"),
    )
    boss = world.keys.token(azp="operator/admin", subject="bob", roles=["boss"])
    explained = await world.ask(policy_grpc.PolicyAdminServiceStub, "ExplainPrincipal", request, boss)
    assert (explained.allowed, explained.rule_id) == (True, "role:viewer#1")
    tenant_boss = world.keys.token(azp="operator/admin", subject="bob", roles=["boss"], tenant="acme")
    with pytest.raises(PermissionDenied, match="own tenant"):
        await world.ask(policy_grpc.PolicyAdminServiceStub, "ExplainPrincipal", request, tenant_boss)


@pytest.mark.req("R13", "R17")
async def test_whoever_is_of_a_tenant_deals_with_its_elevations_only(desk: Desk) -> None:
    ours = await desk.request(desk.token("alice", "asker", tenant="acme"))
    theirs = await desk.request(desk.token("bob", "asker", tenant="other"))
    boss = desk.token("carol", "boss", tenant="acme")
    assert [each.id for each in await desk.list(boss)] == [ours.id]
    for act in (desk.approve, desk.revoke):
        with pytest.raises(NotFound):
            await act(theirs.id, boss)
    assert {each.id for each in await desk.list(desk.token("root", "boss"))} == {ours.id, theirs.id}
    await desk.revoke(ours.id, boss)
    assert [each.id for each in await desk.list(desk.token("root", "boss"), open_only=True)] == [theirs.id]


@pytest.mark.req("I5.3", "R18")
async def test_a_batch_is_decided_under_one_policy_and_recorded_as_one_event(world: World) -> None:
    token = world.keys.token(roles=["viewer"])
    actions = [pods("list", "default"), pods("delete", "default", "web\t1"), *[pods("list", "staging")] * 98]
    request = authz_pb2.BatchCheckRequest(principal_token=token, actions=actions, request_id="r")
    stub = lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).BatchCheck
    response = await world.peer().unary(stub, request, Deadline.after(10))
    answers = list(response.responses)
    assert answers[0].allowed.rule_id == "role:viewer#1"
    assert answers[1].denied.rule_id == "denied:invalid_action"
    assert answers[2].denied.missing == authz_pb2.Grant(permission="k8s:pods:list", namespace="staging")
    [event] = world.log.events(AUTHORIZATION)
    assert {each.event_id for each in answers} == {event.event_id}
    parts = sorted((key, text) for key, text in event.metadata.items() if key.startswith("decisions."))
    assert all(len(text) <= 4096 for _, text in parts)
    lines = "\n".join(text for _, text in parts).split("\n")
    assert len(lines) == 100
    assert lines[0].split("\t") == ["role:viewer#1", "list", "", "pods", "", "default", "", "", ""]
    assert lines[1].split("\t")[6] == "web?1", "a name cannot forge a column"
    assert json.loads(event.metadata["principal"])["roles"] == ["viewer"]
    for count in (0, 101):
        with pytest.raises(InvalidArgument):
            await world.peer().unary(
                stub,
                authz_pb2.BatchCheckRequest(principal_token=token, actions=[pods("list", "default")] * count),
                Deadline.after(10),
            )


@pytest.mark.req("R12")
async def test_every_answer_to_a_ping_comes_from_a_read_begun_after_it(world: World) -> None:
    """A change that another process commits to the store is in the answer to the next ping."""
    watch = authz_pb2_grpc.AuthzServiceStub(world.peer().channel()).WatchPolicy()
    first = await ping(world, watch, 1)
    assert first.policy_revision == revision_of(POLICY.encode())
    with sqlite3.connect(world.directory / "authz.db") as other:
        other.execute("INSERT INTO revisions (cause, at) VALUES ('another replica', 0)")
    second = await ping(world, watch, 2)
    assert second.answer.revision == first.answer.revision + 1
    # The end marker says that the rest is meant to be gone, not cut off.
    world.replace_policy("roles: []\n...\n")
    await until(lambda: len([each for each in world.log.events(ADMIN) if each.action == "policy.load"]) == 2)
    third = await ping(world, watch, 3)
    assert third.answer.revision > second.answer.revision
    assert third.policy_revision == revision_of(b"roles: []\n...\n")
    watch.cancel()


@pytest.mark.req("I5.5")
async def test_elevations_and_revisions_outlive_the_process(tmp_path: Path) -> None:
    async with running(tmp_path, POLICY) as world:
        desk = Desk(world)
        asked = await desk.request(desk.token("alice", "asker"))
        await desk.approve(asked.id, desk.token("bob", "boss"))
        token = world.keys.token(subject="alice")
        revision = (await world.check(token, pods("delete", "staging", "x"))).lease_revision
    (tmp_path / "authz" / "address").unlink()
    async with running(tmp_path, POLICY) as world:
        again = await world.check(world.keys.token(subject="alice"), pods("delete", "staging", "x"))
        assert again.HasField("allowed")
        assert again.lease_revision > revision


@pytest.mark.req("I2.11")
async def test_a_store_that_is_not_ours_keeps_it_from_starting(tmp_path: Path) -> None:
    directory = tmp_path / "authz"
    directory.mkdir()
    (directory / "authz.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StartupError, match="damaged or not a SQLite database"):
        async with running(tmp_path, POLICY):
            pass
    (directory / "authz.db").unlink()
    with sqlite3.connect(directory / "authz.db") as foreign:
        foreign.execute("CREATE TABLE t (x)")
    with pytest.raises(StartupError, match="another application"):
        async with running(tmp_path, POLICY):
            pass
