"""The core's decision cache: what it keeps, under which key, and what makes it forget (R11, R12)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.common.deadline import Deadline
from services.common.errors import Unauthenticated, Unavailable
from services.mcp_core.decision_cache import MAX_ENTRIES, CachedAuthorizer
from services.mcp_core.model import (
    Action,
    Allowed,
    Caller,
    Decision,
    Denied,
    Principal,
    RequestContext,
    Result,
    Scope,
    Scopes,
    Source,
    Suggestion,
)
from services.mcp_core.tools.base import Invocation, Permission, Structured
from tests.fakes.clock import FakeClock
from tests.unit.mcp_core.edge.fakes import ALICE, World

ACTION = Action("default", Permission("list", "", "pods"), "list_pods", "default")


class Authz:
    """Counts what it is asked; answers with ``decision``, after ``hold`` where that is set."""

    def __init__(self, clock: FakeClock) -> None:
        until = clock.now().timestamp() + 60
        self.decision: Decision = Allowed("role:r#1", "r", "rev", "event-1", cacheable_until=until, lease_revision=1)
        self.asked = 0
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None

    def decided_under(self, revision: int) -> None:
        """Answers from now on carry this revision."""
        assert isinstance(self.decision, Allowed)
        self.decision = replace(self.decision, lease_revision=revision)

    async def check(self, caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        self.asked += 1
        decision = self.decision
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return decision

    async def list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        self.asked += 1
        assert isinstance(self.decision, Allowed)
        decided = self.decision
        return Scopes(tuple(Scope(all=True) for _ in actions), decided.cacheable_until, decided.lease_revision)

    async def suggest_roles(self, caller: Caller, actions: Sequence[Action], roles: Sequence[str]) -> list[Suggestion]:
        self.asked += 1
        return [Suggestion(True)]


class Lease:
    """As services.common.lease.Lease reads: a term counted from the sending of the answered ping."""

    def __init__(self, clock: FakeClock, cache: CachedAuthorizer) -> None:
        self._clock, self._cache = clock, cache
        self.revision = 0
        self._sent_at = float("-inf")

    def fresh(self) -> bool:
        return self._clock.monotonic() - self._sent_at < 1.0

    def answered(self, revision: int, sent_at: float | None = None) -> None:
        self._cache.saw(revision)
        self.revision = max(self.revision, revision)
        self._sent_at = self._clock.monotonic() if sent_at is None else sent_at

    def lost(self) -> None:
        self._sent_at = float("-inf")


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.authz = Authz(self.clock)
        self.cache = CachedAuthorizer(self.authz, self.clock)
        self.lease = Lease(self.clock, self.cache)
        self.cache.use(self.lease)
        self.lease.answered(1)

    async def check(self, action: Action = ACTION, principal: Principal | None = None) -> Decision:
        context = RequestContext("r", "0" * 32, "rest", Source("192.0.2.1"), Deadline.after(10))
        principal = principal or Principal("kubegate", "alice", digest=b"whole")
        return await self.cache.check(Caller(context, principal, "token"), action)

    async def asks(self, **what: Any) -> int:
        """How often authz is asked for one check."""
        before = self.authz.asked
        await self.check(**what)
        return self.authz.asked - before

    async def lists(self, *actions: Action, principal: Principal | None = None) -> int:
        """How often authz is asked for one list."""
        before = self.authz.asked
        context = RequestContext("r", "0" * 32, "rest", Source("192.0.2.1"), Deadline.after(10))
        principal = principal or Principal("kubegate", "alice", digest=b"whole")
        await self.cache.list_allowed(Caller(context, principal, "token"), actions or (ACTION,))
        return self.authz.asked - before


@pytest.mark.req("R11", "R18", "I5.8")
async def test_a_decision_is_used_again_and_names_the_record_that_it_repeats() -> None:
    rig = Rig()
    first, second = await rig.check(), await rig.check()
    assert rig.authz.asked == 1
    assert isinstance(first, Allowed)
    assert not first.cached
    assert second == replace(first, cached=True)
    assert isinstance(second, Allowed)
    assert second.event_id == "event-1"
    assert (rig.cache.counts.hits, rig.cache.counts.misses) == (1, 1)


@pytest.mark.req("R11", "I5.8")
async def test_the_key_is_the_whole_principal_and_the_whole_action() -> None:
    rig = Rig()
    assert await rig.asks() == 1
    others = [
        replace(ACTION, namespace="staging"),
        replace(ACTION, name="web"),
        replace(ACTION, cluster="other"),
        replace(ACTION, tool="list_resources"),
        replace(ACTION, replicas=3),
        replace(ACTION, permission=Permission("delete", "", "pods")),
        replace(ACTION, permission=Permission("logs", "", "pods", "log")),
    ]
    for other in others:
        assert await rig.asks(action=other) == 1, other
    assert await rig.asks(principal=Principal("kubegate", "alice", digest=b"with another role")) == 1
    assert await rig.asks() == 0
    unknown = Principal("kubegate", "alice")
    assert [await rig.asks(principal=unknown), await rig.asks(principal=unknown)] == [1, 1], "no digest, no cache"


@pytest.mark.req("R11", "I5.8")
async def test_denials_and_what_may_not_be_cached_are_asked_each_time() -> None:
    rig = Rig()
    kept = rig.authz.decision
    assert isinstance(kept, Allowed)
    for decision in (
        Denied("no_grant", "no", "k8s:pods:list", "default", "rev", "event-2"),
        replace(kept, cacheable_until=0.0),
        replace(kept, lease_revision=0),
    ):
        rig.authz.decision = decision
        assert [await rig.asks(), await rig.asks()] == [1, 1]


@pytest.mark.req("R11", "I5.8")
async def test_a_decision_ends_with_what_it_rests_on() -> None:
    rig = Rig()
    await rig.check()
    rig.clock.advance(59.9)
    rig.lease.answered(1)
    assert await rig.asks() == 0
    rig.clock.advance(0.1)
    rig.lease.answered(1)
    assert await rig.asks() == 1


@pytest.mark.req("R12", "I5.8", "I5.11")
async def test_a_lost_silent_or_stale_lease_drops_the_cache_and_nothing_extends_it() -> None:
    rig = Rig()
    await rig.check()
    rig.clock.advance(0.99)
    assert await rig.asks() == 0
    rig.clock.advance(0.01)
    assert await rig.asks() == 1, "silent for a second"
    rig.lease.answered(1)
    assert await rig.asks() == 1, "what was dropped does not come back"
    assert await rig.asks() == 0
    rig.lease.lost()
    assert [await rig.asks(), await rig.asks()] == [1, 1]
    assert rig.cache.counts.drops == 2


@pytest.mark.req("R12", "I5.8")
async def test_a_stopped_process_wakes_up_without_a_lease() -> None:
    """As SIGSTOP and SIGCONT or a sleeping machine: time has passed, and an answer from before lies there."""
    rig = Rig()
    await rig.check()
    pinged = rig.clock.monotonic()
    rig.clock.advance(3600)
    assert await rig.asks() == 1
    rig.lease.answered(1, sent_at=pinged)
    assert await rig.asks() == 1, "the answer vouches from the moment of its ping, an hour ago"


@pytest.mark.req("R12", "I5.8")
async def test_a_new_revision_drops_everything_decided_under_an_older_one() -> None:
    rig = Rig()
    await rig.check()
    rig.lease.answered(2)
    assert await rig.asks() == 1
    assert await rig.asks() == 1, "that answer was of revision 1 and was not kept"
    rig.authz.decided_under(2)
    assert [await rig.asks(), await rig.asks()] == [1, 0]


@pytest.mark.req("R12", "I5.8")
async def test_an_answer_that_arrives_after_the_revocation_is_not_kept() -> None:
    rig = Rig()
    rig.authz.hold = asyncio.Event()
    under_way = asyncio.create_task(rig.check())
    while not rig.authz.asked:
        await asyncio.sleep(0)
    rig.lease.answered(2)
    rig.authz.hold.set()
    assert isinstance(await under_way, Allowed), "it was allowed when it was asked"
    rig.authz.hold = None
    assert await rig.asks() == 1


@pytest.mark.req("R12", "I5.8")
async def test_an_answer_newer_than_the_lease_ends_what_is_older_and_waits_for_the_lease() -> None:
    rig = Rig()
    await rig.check()
    rig.authz.decided_under(2)
    assert await rig.asks(action=replace(ACTION, namespace="staging")) == 1
    assert [await rig.asks(), await rig.asks()] == [1, 1], "the lease vouches for revision 1 only"
    rig.lease.answered(2)
    assert await rig.asks() == 0


@pytest.mark.req("R12", "I5.8")
async def test_an_authz_whose_revisions_went_back_is_never_cached() -> None:
    rig = Rig()
    rig.lease.answered(7)
    rig.lease.answered(1)
    assert [await rig.asks(), await rig.asks()] == [1, 1]


@pytest.mark.req("I5.8", "I2.6")
async def test_without_authz_and_without_a_lease_nothing_is_allowed() -> None:
    rig = Rig()
    await rig.check()
    rig.authz.error = Unavailable("The authz service cannot be reached.")
    rig.lease.lost()
    with pytest.raises(Unavailable):
        await rig.check()


async def test_the_cache_is_bounded() -> None:
    rig = Rig()
    for number in range(MAX_ENTRIES + 1):
        await rig.check(replace(ACTION, name=f"n{number}"))
    assert await rig.asks(action=replace(ACTION, name="n0")) == 1
    assert await rig.asks(action=replace(ACTION, name=f"n{MAX_ENTRIES}")) == 0


@pytest.mark.req("I6.8", "R11", "R12")
async def test_a_list_is_kept_for_its_principal_and_revision_and_no_longer() -> None:
    rig = Rig()
    other = Principal("kubegate", "bob", digest=b"other")
    elsewhere = replace(ACTION, permission=Permission("delete", "", "pods"))
    assert [await rig.lists(), await rig.lists()] == [1, 0]
    assert [await rig.lists(principal=other), await rig.lists(principal=other)] == [1, 0]
    assert await rig.lists(ACTION, elsewhere) == 1
    nobody = Principal("kubegate", "nobody")
    assert [await rig.lists(principal=nobody), await rig.lists(principal=nobody)] == [1, 1]
    rig.authz.decided_under(2)
    rig.lease.answered(2)
    assert [await rig.lists(), await rig.lists()] == [1, 0]
    rig.lease.lost()
    assert [await rig.lists(), await rig.lists()] == [1, 1]
    rig.lease.answered(2)
    assert [await rig.lists(), await rig.lists()] == [1, 0]
    rig.clock.advance(120)
    rig.lease.answered(2)
    assert [await rig.lists(), await rig.lists()] == [1, 1], "the token that asked has ended"


@pytest.mark.req("R18", "I5.8")
async def test_the_cores_record_says_that_a_decision_was_cached() -> None:
    world = World()
    said = Allowed("role:r#1", "r", "rev1", "authz-7", cached=True)

    async def check(caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        return said

    world.authz.check = check  # type: ignore[method-assign]
    await world.pipeline.call(await world.caller(ALICE), "look", {"namespace": "default"})
    metadata = world.audit.last.metadata
    assert (metadata["authn_event_id"], metadata["authz_event_id"], metadata["cached"]) == (
        "authn-event",
        "authz-7",
        "true",
    )


@pytest.mark.req("I5.1", "R14")
async def test_all_namespaces_leaves_out_what_a_deny_rule_takes_out() -> None:
    scope = Scope(all=True, excluding=("prod*",))
    assert scope.covers("default")
    assert not scope.covers("production")


@pytest.mark.req("R19", "R12")
async def test_a_call_that_stays_open_ends_with_its_credential_whatever_is_kept_of_decisions() -> None:
    """The decision is kept and its lease is fresh; the key has been disabled meanwhile."""
    rig, world = Rig(), World()
    rig.lease.answered(1)
    world.authz.check = rig.cache.check  # type: ignore[method-assign]
    looks = 0

    async def run(invocation: Invocation) -> Structured:
        nonlocal looks
        for _ in range(3):
            await invocation.still_allowed()
            looks += 1
        world.authn.vouching = False
        rig.authz.error = Unauthenticated("The principal token is no longer valid.")
        await invocation.still_allowed()
        return {"done": []}

    world.run = run
    caller = replace(await world.caller(ALICE), principal=Principal("kubegate", "alice", digest=b"whole"))
    with pytest.raises(Unauthenticated):
        await world.pipeline.call(caller, "look", {"namespace": "default"})
    assert (looks, rig.authz.asked) == (3, 2), "what is vouched for is not asked about anew"
    assert world.audit.last.result is not Result.SUCCESS
