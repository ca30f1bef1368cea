"""authz's administration over real mTLS: policy, elevations, batches, explanations and the lease."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc, elevation_pb2, elevation_pb2_grpc
from kubegate.authz.v1 import policy_admin_pb2 as policy_pb2
from kubegate.authz.v1 import policy_admin_pb2_grpc as policy_grpc
from kubegate.common.v1 import identity_pb2
from services.authz.policy.parse import revision_of
from services.common.deadline import Deadline
from services.common.errors import (
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
)
from services.common.grpc_server import NOTICES_METADATA
from services.common.runtime_errors import StartupError
from tests.contract.authz_desk import AUTHORIZATION, POLICY, Desk, desk, ping, pods, world
from tests.contract.authz_world import ADMIN, World, running, until

__all__ = ["desk", "world"]


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
