"""Back to an earlier policy (I5.6): recorded, under a new number, in the file too, and never without the right."""

import os
import sqlite3
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import policy_admin_pb2 as pb
from kubegate.authz.v1 import policy_admin_pb2_grpc as rpc
from kubegate.common.v1 import identity_pb2
from services.authz.adapters.sqlite_policies import KEPT
from services.authz.adapters.sqlite_store import SqliteStore
from services.authz.policy.parse import revision_of
from services.authz.ports import Adopted
from services.common.errors import FailedPrecondition, NotFound, PermissionDenied, Unauthenticated, Unavailable
from tests.contract.authz_world import ADMIN, World, running, until

POLICY = """
roles:
  - {name: boss, permissions: ["kubegate:policy:*", "k8s:pods:list"]}
  - {name: keeper, permissions: ["kubegate:policy:read", "kubegate:policy:reload"]}
"""
WIDER = POLICY + '  - {name: extra, permissions: ["k8s:pods:delete"]}\n'


class Desk:
    """The administration of one authz, with what lies on its disk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.path = world.directory / "policy.yaml"
        self.boss = world.keys.token(roles=("boss",), azp="operator/admin")

    async def ask(self, method: str, request: Any, token: str = "", as_: str = "operator/admin") -> Any:
        return await self.world.ask(rpc.PolicyAdminServiceStub, method, request, token or self.boss, as_)

    async def history(self) -> list[Any]:
        return list((await self.ask("ListPolicies", pb.ListPoliciesRequest())).policies)

    async def back_to(self, number: int, **more: str) -> Any:
        return await self.ask("RollbackPolicy", pb.RollbackPolicyRequest(number=number), **more)

    async def in_force(self) -> Any:
        return await self.ask("GetPolicy", pb.GetPolicyRequest())

    async def changed_to(self, text: str) -> None:
        self.world.replace_policy(text)
        await self.ask("ReloadPolicy", pb.ReloadPolicyRequest())


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with running(tmp_path, POLICY) as world:
        yield Desk(world)


@pytest.mark.req("I5.6", "R15", "R18", "R12")
async def test_an_earlier_policy_is_in_force_again_under_a_new_number_and_in_the_file(desk: Desk) -> None:
    (first,) = await desk.history()
    assert (first.revision, first.by, first.how) == (revision_of(POLICY.encode()), "", "start")
    await desk.changed_to(WIDER)
    second, _ = await desk.history()
    assert (second.revision, second.by, second.how) == (revision_of(WIDER.encode()), "alice", "reload")
    assert second.number > first.number
    shown = await desk.ask("GetPolicy", pb.GetPolicyRequest(number=first.number))
    assert (shown.content, shown.revision) == (POLICY.encode(), first.revision)

    desk.path.chmod(0o640)
    done = await desk.back_to(first.number)
    assert (done.policy.revision, done.previous_revision) == (first.revision, second.revision)
    assert done.policy.number > second.number, "a number is never used again: what is cached under it stays dead"
    assert (done.policy.by, done.policy.how) == ("alice", f"rollback to {first.number}")
    assert (await desk.in_force()).content == POLICY.encode() == desk.path.read_bytes()
    assert desk.path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in desk.path.parent.iterdir() if each.name.startswith(".policy")] == []
    token = desk.world.keys.token(roles=("extra",))
    decision = await desk.world.check(
        token, identity_pb2.Action(verb="delete", resource="pods", namespace="x", name="y")
    )
    assert decision.WhichOneof("outcome") == "denied"
    assert decision.lease_revision >= done.policy.number
    acts = [event for event in desk.world.log.events(ADMIN) if event.action == "policy.rollback"]
    assert [event.phase for event in acts] == [audit_pb2.PHASE_INTENT, audit_pb2.PHASE_OUTCOME]
    assert acts[0].metadata["number"] == str(first.number)
    assert (acts[0].metadata["from"], acts[0].metadata["to"]) == (second.revision, first.revision)
    with pytest.raises(FailedPrecondition, match="is the one in force"):
        await desk.back_to(first.number)


@pytest.mark.req("I5.6", "R15")
async def test_it_needs_the_right_the_certificate_and_a_number_that_is_kept(desk: Desk) -> None:
    (first,) = await desk.history()
    await desk.changed_to(WIDER)
    keeper = desk.world.keys.token(roles=("keeper",), azp="operator/admin")
    with pytest.raises(PermissionDenied, match="kubegate:policy:rollback"):
        await desk.back_to(first.number, token=keeper)
    nobody = desk.world.keys.token(azp="operator/admin")
    for method, request in (
        ("ListPolicies", pb.ListPoliciesRequest()),
        ("GetPolicy", pb.GetPolicyRequest(number=first.number)),
    ):
        with pytest.raises(PermissionDenied, match="kubegate:policy:read"):
            await desk.ask(method, request, nobody)
    for peer in ("service/mcp-core", "platform/x"):
        with pytest.raises(PermissionDenied):
            await desk.back_to(first.number, as_=peer)
    with pytest.raises(Unauthenticated):
        await desk.back_to(first.number, token=desk.world.keys.token(roles=("boss",), azp="operator/other"))
    for number in (0, first.number + 100, 2**62):
        with pytest.raises(NotFound, match="policy history"):
            await desk.back_to(number)
    assert (await desk.in_force()).content == WIDER.encode()
    refused = [event for event in desk.world.log.events(ADMIN) if event.action == "policy.rollback"]
    assert {event.result for event in refused} == {audit_pb2.RESULT_FAILURE}


@pytest.mark.req("I5.6")
@pytest.mark.parametrize("how", ["link", "pending change", "read-only directory"])
async def test_where_the_file_cannot_say_it_nothing_is_changed_and_the_next_step_is_told(desk: Desk, how: str) -> None:
    (first,) = await desk.history()
    await desk.changed_to(WIDER)
    blocked: Path | None = None
    if how == "link":
        elsewhere = desk.path.with_name("elsewhere.yaml")
        desk.path.rename(elsewhere)
        desk.path.symlink_to(elsewhere)
        says = "history --show"
    elif how == "pending change":
        desk.path.write_text("roles: [")
        says = "move it away"
    else:
        # Root writes everywhere, so the way is blocked by what stands in it.
        blocked = desk.path.with_name(f".{desk.path.name}.{os.getpid()}.new")
        blocked.mkdir()
        says = "cannot be written"
    before = desk.path.read_bytes()
    with pytest.raises(FailedPrecondition, match=says):
        await desk.back_to(first.number)
    if blocked is not None:
        blocked.rmdir()
    assert desk.path.read_bytes() == before
    assert (await desk.in_force()).content == WIDER.encode()
    outcome = [event for event in desk.world.log.events(ADMIN) if event.action == "policy.rollback"][-1]
    assert (outcome.phase, outcome.result) == (audit_pb2.PHASE_OUTCOME, audit_pb2.RESULT_ERROR)
    assert outcome.error_message == "failed_precondition"
    if how == "pending change":
        desk.path.rename(desk.path.with_name("mine.yaml"))
        assert (await desk.back_to(first.number)).policy.revision == first.revision


@pytest.mark.req("I5.6", "R18")
async def test_what_cannot_be_recorded_or_no_longer_parses_is_not_put_in_force(desk: Desk) -> None:
    (first,) = await desk.history()
    await desk.changed_to(WIDER)
    store = desk.world.directory / "authz.db"
    old = b'roles:\n  - {name: boss, permissions: ["k8s:nothing-like-it"]}\n'
    with sqlite3.connect(store) as connection:
        connection.execute(
            "UPDATE policies SET content = ?, revision = ? WHERE number = ?",
            (zlib.compress(old), revision_of(old), first.number),
        )
    with pytest.raises(FailedPrecondition, match="none for this version"):
        await desk.back_to(first.number)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE policies SET content = ? WHERE number = ?", (zlib.compress(b"x"), first.number))
    with pytest.raises(FailedPrecondition, match="damaged"):
        await desk.back_to(first.number)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE policies SET content = ? WHERE number = ?", (b"x", first.number))
    with pytest.raises(Unavailable):
        await desk.back_to(first.number)
    connection.close()
    assert (await desk.in_force()).content == WIDER.encode() == desk.path.read_bytes()


@pytest.mark.req("I5.6", "R12")
async def test_a_store_that_does_not_take_it_leaves_the_policy_and_takes_it_when_it_can(desk: Desk) -> None:
    (first,) = await desk.history()
    await desk.changed_to(WIDER)
    store = desk.world.directory / "authz.db"
    with sqlite3.connect(store) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON policies BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        )
    with pytest.raises(Unavailable, match="until then what was in force decides"):
        await desk.back_to(first.number)
    assert (await desk.in_force()).content == WIDER.encode(), "decided by the old one"
    assert desk.path.read_bytes() == POLICY.encode()
    with sqlite3.connect(store) as connection:
        connection.execute("DROP TRIGGER full")
    connection.close()
    await until(lambda: revision_of(POLICY.encode()) in str(desk.world.log.events(ADMIN)[-1].metadata))
    assert (await desk.in_force()).content == POLICY.encode()
    assert (await desk.history())[0].how == "file"


@pytest.mark.req("I5.6")
async def test_the_newest_are_kept_and_the_same_one_twice_in_a_row_counts_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "authz.db")
    for number in range(KEPT + 5):
        for _ in range(2):
            await store.adopted(Adopted(f"r{number}", "alice", "reload"), f"content {number}".encode())
    found = await store.policies()
    assert [policy.revision for policy in found] == [f"r{number}" for number in range(KEPT + 4, 4, -1)]
    assert await store.policy(found[0].number) == f"content {KEPT + 4}".encode()
    assert await store.policy(1) is None
    await store.close()
    again = SqliteStore(tmp_path / "authz.db")
    assert await again.policies() == found
    await again.close()


@pytest.mark.req("I5.6")
async def test_a_restart_after_going_back_decides_by_the_policy_that_was_gone_back_to(tmp_path: Path) -> None:
    async with running(tmp_path / "one", POLICY) as world:
        desk = Desk(world)
        (first,) = await desk.history()
        await desk.changed_to(WIDER)
        await desk.back_to(first.number)
        written = desk.path.read_text()
    store = (world.directory / "authz.db").read_bytes()
    (tmp_path / "two" / "authz").mkdir(parents=True)
    (tmp_path / "two" / "authz" / "authz.db").write_bytes(store)
    async with running(tmp_path / "two", written) as world:
        desk = Desk(world)
        assert (await desk.in_force()).content == POLICY.encode()
        assert [policy.how for policy in await desk.history()] == [f"rollback to {first.number}", "reload", "start"]
