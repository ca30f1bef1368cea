"""A confirmation fits one caller, one call and the object as it was seen, once and not for long (R16)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from services.common.errors import Unavailable
from services.mcp_core.confirmation import (
    CONFIRM_SECONDS,
    HANDLE,
    Asking,
    ConfirmationNeeded,
    ConfirmationRefused,
    ConfirmationUnavailable,
    Refusal,
    Way,
)
from services.mcp_core.model import Kind, Phase, Principal, Result
from services.mcp_core.tools.base import Plan
from tests.fakes.clock import FakeClock
from tests.unit.mcp_core.edge.fakes import ALICE, BOB
from tests.unit.mcp_core.edge.planned import CALL, Planned

REST = Asking(Way.TOKEN)
NO_ANSWERS: tuple[dict[str, Any], ...] = ({}, {"confirm": "x"})
DELETES = Plan("Deletes pod web.", "17", confirm=True)


async def asked(planned: Planned, way: Way = Way.TOKEN) -> str:
    """The token with which somebody is asked."""
    with pytest.raises(ConfirmationNeeded) as caught:
        await planned.call(asking=Asking(way))
    return caught.value.token


async def refused(planned: Planned, token: str, why: Refusal, credential: str = ALICE, **arguments: Any) -> None:
    """Nothing happens, and the refusal is on record."""
    with pytest.raises(ConfirmationRefused) as caught:
        await planned.call(credential, REST, confirm=token, **arguments)
    assert caught.value.why is why
    assert "nothing was done" in caught.value.public_message
    assert not planned.world.invocations
    assert "intent" not in planned.world.log
    event = planned.world.audit.last
    violation = why in (Refusal.FORGED, Refusal.FOREIGN, Refusal.ALTERED, Refusal.USED)
    assert event.kind is (Kind.SECURITY_VIOLATION if violation else Kind.MCP_REQUEST)
    assert (event.phase, event.result) == (Phase.WHOLE, Result.FAILURE)
    assert event.metadata["confirmation"] == f"refused: {why}"
    assert ("violation_type" in event.metadata) is violation


@pytest.mark.req("R16", "I8.3")
async def test_what_destroys_is_asked_for_and_then_goes_through_every_step_again() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    assert planned.world.log == ["check", "prepare", "record"]
    event = planned.world.audit.last
    assert (event.result, event.metadata["confirmation"]) == (Result.FAILURE, "token asked")

    await planned.call(asking=REST, confirm=token)
    assert planned.world.log == ["check", "prepare", "claim", "intent", "execute", "outcome"]
    assert dict(planned.world.invocations[0].arguments) == CALL
    intent, outcome = planned.world.audit.events[-2:]
    assert intent.metadata["confirmation"] == outcome.metadata["confirmation"]
    assert intent.metadata["confirmation"].startswith("token ")
    assert token not in str(planned.world.audit.events)


@pytest.mark.req("R16", "I8.4")
async def test_a_replayed_confirmation_is_refused() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    await planned.call(asking=REST, confirm=token)
    planned.world.invocations.clear()
    await refused(planned, token, Refusal.USED)


@pytest.mark.req("R16", "I8.4")
@pytest.mark.parametrize("forged", ["sealed-9", "x", "\u00e9", "sealed-0 "])
async def test_a_forged_confirmation_is_refused(forged: str) -> None:
    planned = Planned(DELETES)
    await asked(planned)
    await refused(planned, forged, Refusal.FORGED)


@pytest.mark.req("R16", "I8.4")
async def test_what_is_sealed_but_no_question_is_refused() -> None:
    planned = Planned(DELETES)
    for content in (b"", b"{}", msgspec.msgpack.encode(["id", "token"])):
        await refused(planned, planned.world.sealer.seal(content), Refusal.FORGED)


@pytest.mark.req("R16", "I8.4")
async def test_a_confirmation_of_other_arguments_or_another_tool_is_refused() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    await refused(planned, token, Refusal.ALTERED, name="other")
    planned.world.registry["destroy"] = replace(planned.world.registry["change"], name="destroy")
    await refused(planned, token, Refusal.ALTERED, tool="destroy")


@pytest.mark.req("R1", "R16", "I8.4")
async def test_a_confirmation_of_another_user_or_credential_is_refused() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    planned.world.authz.scopes["change"] = planned.world.authz.scopes["look"]
    await refused(planned, token, Refusal.FOREIGN, BOB)
    for other in (
        Principal("https://idp.example", "alice", "key-alice", "jwt"),
        Principal("kubegate", "alice", "key-2", "api_key"),
        Principal("kubegate", "alice", "key-alice", "api_key", tenant="blue"),
    ):
        caller = replace(await planned.world.caller(), principal=other)
        with pytest.raises(ConfirmationRefused) as caught:
            await planned.world.pipeline.call(caller, "change", {**CALL, "confirm": token}, REST)
        assert caught.value.why is Refusal.FOREIGN


@pytest.mark.req("R16", "I8.4", "R27")
async def test_an_expired_confirmation_is_refused() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    planned.world.clock.advance(CONFIRM_SECONDS)
    await refused(planned, token, Refusal.EXPIRED)


@pytest.mark.req("R16", "I8.4", "I8.6")
@pytest.mark.parametrize(
    "now", [replace(DELETES, resource_version="18"), replace(DELETES, summary="Deletes pod web and its volume.")]
)
async def test_after_the_object_changed_the_confirmation_is_refused(now: Plan) -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    planned.plan = now
    await refused(planned, token, Refusal.STALE)


@pytest.mark.req("R16", "I8.3")
async def test_a_token_answers_only_in_the_way_in_which_it_was_asked() -> None:
    planned = Planned(DELETES)
    state = await asked(planned, Way.STATE)
    await refused(planned, state, Refusal.FORGED)
    token = await asked(planned)
    with pytest.raises(ConfirmationRefused):
        await planned.call(asking=Asking(Way.STATE, token))
    # The argument is no answer where the answer comes beside the arguments.
    with pytest.raises(ConfirmationNeeded):
        await planned.call(asking=Asking(Way.STATE), confirm=token)
    await planned.call(asking=Asking(Way.STATE, state))
    assert len(planned.world.invocations) == 1


@pytest.mark.req("R16", "I8.3")
async def test_a_no_is_a_no() -> None:
    planned = Planned(DELETES)
    state = await asked(planned, Way.STATE)
    with pytest.raises(ConfirmationRefused, match="was not confirmed"):
        await planned.call(asking=Asking(Way.STATE, state, accepted=False))
    assert not planned.world.invocations
    assert planned.world.audit.last.metadata["confirmation"] == "refused: declined"


@pytest.mark.req("R16", "I8.3")
async def test_who_cannot_be_asked_is_refused_unless_policy_permits_handles() -> None:
    planned = Planned(DELETES)
    planned.world.authz.denied = {str(HANDLE)}
    for arguments in NO_ANSWERS:
        with pytest.raises(ConfirmationUnavailable, match=r"kubegate:confirm:handle"):
            await planned.call(**arguments)
        assert planned.world.audit.last.metadata["confirmation"] == "nobody can be asked"
    # A token of another interface is no way around it.
    token = await asked(planned)
    with pytest.raises(ConfirmationUnavailable):
        await planned.call(confirm=token)

    planned.world.authz.denied = set()
    with pytest.raises(ConfirmationNeeded) as caught:
        await planned.call()
    handle = caught.value.token
    # Policy is asked again when the handle comes back.
    planned.world.authz.denied = {str(HANDLE)}
    with pytest.raises(ConfirmationUnavailable):
        await planned.call(confirm=handle)
    planned.world.authz.denied = set()
    await planned.call(confirm=handle)
    assert len(planned.world.invocations) == 1
    assert planned.world.audit.last.metadata["confirmation"].startswith("handle ")


@pytest.mark.req("R16")
async def test_a_confirmation_is_no_permission() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    planned.world.authz.denied = {"k8s:deployments:scale"}
    with pytest.raises(Exception, match="not allowed"):
        await planned.call(asking=REST, confirm=token)
    assert not planned.world.invocations


@pytest.mark.req("R16")
async def test_while_authz_cannot_say_whether_it_was_used_nothing_is_done() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    planned.world.keeper.error = Unavailable("The authz service is away.")
    with pytest.raises(Unavailable):
        await planned.call(asking=REST, confirm=token)
    assert not planned.world.invocations
    assert planned.world.audit.last.result is Result.ERROR


@pytest.mark.req("R16", "R27")
async def test_replicas_whose_clocks_differ_let_nothing_be_used_after_authz_forgot_it() -> None:
    planned = Planned(DELETES)
    token = await asked(planned)
    # authz's clock is ahead: it has forgotten what was used before, and takes nothing that expired by its clock.
    planned.world.keeper.clock = FakeClock(planned.world.clock.now() + timedelta(seconds=CONFIRM_SECONDS))
    await refused(planned, token, Refusal.EXPIRED)
