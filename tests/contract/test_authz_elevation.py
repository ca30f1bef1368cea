"""Elevations over real mTLS: asked for, approved by another, used for a while, and over (R17)."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import authz_pb2_grpc, elevation_pb2
from kubegate.common.v1 import identity_pb2
from services.common.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from tests.contract.authz_desk import AUTHORIZATION, POLICY, Desk, desk, ping, pods, world
from tests.contract.authz_world import ADMIN, World, running

__all__ = ["desk", "world"]


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
