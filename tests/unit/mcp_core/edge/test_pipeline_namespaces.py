"""All namespaces, and as whom the cluster is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.errors import (
    FailedPrecondition,
    Unavailable,
)
from services.mcp_core.errors import ActionDenied, ClusterDenied
from services.mcp_core.model import Result, Scope
from tests.unit.mcp_core.edge.fakes import ALICE, BOB, World


@pytest.mark.req("R2")
async def test_the_cluster_is_asked_as_the_caller_in_the_group_of_the_role_that_granted() -> None:
    world = World()
    world.authz.roles = {"default": "viewer"}
    await world.pipeline.call(await world.caller(BOB), "look", {"namespace": "default"})
    (impersonation,) = world.cluster.sessions
    assert impersonation is not None
    assert impersonation.user == "kubegate:kubegate:bob"
    assert impersonation.groups == ("kubegate:role:viewer",)
    assert impersonation.request_id == "req-1"


@pytest.mark.req("R14")
async def test_all_namespaces_is_one_cluster_wide_call_for_who_may_do_so_everywhere() -> None:
    world = World()
    await world.pipeline.call(await world.caller(), "look", {"all_namespaces": True})
    assert world.log == ["list_allowed", "check", "execute", "record"]
    assert world.invocations[0].namespaces == ("",)


@pytest.mark.req("R14")
async def test_all_namespaces_expands_to_the_existing_ones_of_the_grants_each_decided() -> None:
    world = World()
    world.authz.roles = {"default": "viewer", "dev-a": "", "dev-b": "viewer"}
    await world.pipeline.call(await world.caller(BOB), "look", {"all_namespaces": True})
    assert [action.namespace for action in world.authz.checked] == ["default", "dev-a", "dev-b"]
    assert world.invocations[0].namespaces == ("default", "dev-a", "dev-b")
    own, as_caller = world.cluster.sessions
    assert own is None
    assert as_caller is not None
    assert as_caller.groups == ("kubegate:direct", "kubegate:role:viewer")
    assert world.audit.last.metadata["namespaces"] == "default,dev-a,dev-b"


@pytest.mark.req("R14")
async def test_all_namespaces_for_somebody_who_may_nowhere_is_denied() -> None:
    world = World()
    world.authz.scopes = {}
    with pytest.raises(ActionDenied):
        await world.pipeline.call(await world.caller(BOB), "look", {"all_namespaces": True})
    assert world.log == ["list_allowed", "check", "record"]


@pytest.mark.req("R14")
async def test_a_call_over_too_many_namespaces_asks_for_one() -> None:
    world = World()
    world.cluster.namespaces = [f"dev-{number}" for number in range(101)]
    with pytest.raises(FailedPrecondition, match="namespace"):
        await world.pipeline.call(await world.caller(BOB), "look", {"all_namespaces": True})


async def test_a_core_that_may_not_list_namespaces_says_so_and_does_not_blame_the_caller() -> None:
    world = World()
    world.cluster.error = ClusterDenied("The cluster refuses.")
    with pytest.raises(FailedPrecondition, match="kubegate cluster rbac"):
        await world.pipeline.call(await world.caller(BOB), "look", {"all_namespaces": True})
    assert not world.invocations


async def test_list_namespaces_shows_just_those_of_the_grants_from_the_cores_own_account() -> None:
    world = World()
    world.authz.scopes = {"list_namespaces": Scope(patterns=("dev-*",))}
    answer = await world.pipeline.call(await world.caller(BOB), "list_namespaces", {})
    found: Any = answer.structured["namespaces"]
    assert [each["name"] for each in found] == ["dev-a", "dev-b"]
    assert world.cluster.sessions == [None, None]
    answer = await world.pipeline.call(await world.caller(ALICE), "list_namespaces", {})
    found = answer.structured["namespaces"]
    assert len(found) == 4
    assert world.cluster.sessions[-1] is not None


@pytest.mark.req("I2.4")
async def test_offers_are_what_authz_says() -> None:
    world = World()
    offers = await world.pipeline.offers(await world.caller(BOB))
    assert [offer.tool.name for offer in offers] == ["look"]
    offers = await world.pipeline.offers(await world.caller(ALICE))
    assert [offer.tool.name for offer in offers] == list(world.registry)


async def test_one_failed_check_ends_the_others() -> None:
    world = World()
    caller = await world.caller(BOB)
    check, left = world.authz.check, []

    async def some_fail(caller: Any, action: Any, *, anew: bool = False) -> Any:
        if action.namespace == "dev-b":
            raise Unavailable("The authz service cannot be reached.")
        try:
            await asyncio.Event().wait()
        finally:
            left.append(action.namespace)
        return await check(caller, action)

    world.authz.check = some_fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="authz"):
        await world.pipeline.call(caller, "look", {"all_namespaces": True})
    assert sorted(left) == ["default", "dev-a"]
    assert world.audit.last.result is Result.ERROR
