"""What a change goes through between its decision (step 3) and its intent (step 4).

a. A key that was used before gives the recorded answer (R20).
b. The tool looks ahead: what would happen, by the cluster's own word.
c. authz decides what only the look ahead shows to be needed.
d. A dry run ends here.
e. What destroys something is confirmed (R16).
f. The key is taken and the confirmation used, both or neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded, DomainError
from services.mcp_core.confirmation import (
    HANDLE,
    VIOLATIONS,
    Asking,
    ConfirmationNeeded,
    ConfirmationRefused,
    Confirmations,
    ConfirmationUnavailable,
    Way,
    digest_of,
)
from services.mcp_core.decided import denials, write_decision
from services.mcp_core.journal import Entry
from services.mcp_core.model import Caller, Kind, Result, ToolAnswer
from services.mcp_core.once import Once
from services.mcp_core.placement import Placement, further, placed
from services.mcp_core.ports import Authorizer, Confirmed
from services.mcp_core.tools import Controls, preview_of
from services.mcp_core.tools.base import NO_PLAN, UNCHANGED, Invocation, Need, Plan, Tool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was decided. invocation: as `run` is to get it; placement: what was decided, so far."""

    caller: Caller
    tool: Tool
    controls: Controls
    asking: Asking
    invocation: Invocation
    placement: Placement


class Gate:
    """Lets changes through, one by one."""

    def __init__(self, authorizer: Authorizer, confirmations: Confirmations, once: Once) -> None:
        self._authorizer = authorizer
        self._confirmations = confirmations
        self._once = once

    async def admit(self, entry: Entry, change: Change) -> Change | ToolAnswer:
        """The change with its plan and all that was decided, or the answer of what ends here.

        Raises:
            Denial, ConfirmationNeeded, ConfirmationRefused, ConfirmationUnavailable, and as ``Once.claim``: nothing was
                changed.
        """
        key = change.controls.idempotency_key if not change.controls.dry_run else ""
        digest = digest_of(change.placement.action.cluster, change.tool, change.invocation.arguments)

        async def look() -> str:
            return await _look(change)

        if key and change.tool.prepare is not None:
            recorded = await self._once.recall(change.caller, change.tool, key, digest, look)  # a
            if recorded is not None:
                return _replayed(entry, recorded)
        plan = NO_PLAN
        if change.tool.prepare is not None:
            plan = await in_time(change.tool.prepare(change.invocation), change.invocation.deadline)  # b
            change = await self._further(entry, change, plan.needs)  # c
        if change.controls.dry_run:
            entry.result = Result.SUCCESS
            return preview_of(plan)  # d
        confirmed = None
        if plan.confirm:
            change, confirmed = await self._confirmed(entry, change, digest, plan)  # e
        if key or confirmed is not None:
            with _confirming(entry):
                claim = await self._once.claim(change.caller, change.tool, key, digest, confirmed, look)  # f
            if isinstance(claim, ToolAnswer):
                return _replayed(entry, claim)
            entry.claim_id = claim
        return replace(change, invocation=replace(change.invocation, plan=plan, granted=change.placement.granted))

    async def _further(self, entry: Entry, change: Change, needs: tuple[Need, ...]) -> Change:
        if not needs:
            return change
        entry.metadata["permission_check"] += "".join(f",{one}" for one in dict.fromkeys(n.permission for n in needs))
        own = change.tool.needs(change.invocation.arguments)
        async with denials(self._authorizer, entry, placed(change.placement.action, (*own, *needs))):
            placement = await further(self._authorizer, change.caller, change.placement, needs)
        write_decision(entry, placement)
        return replace(change, placement=placement)

    async def _confirmed(self, entry: Entry, change: Change, digest: bytes, plan: Plan) -> tuple[Change, Confirmed]:
        asking = change.asking
        if asking.way is Way.NONE:
            change = await self._further(entry, change, (Need(HANDLE, required=False),))
            if str(HANDLE) in change.placement.granted:
                asking = replace(asking, way=Way.HANDLE)
        if asking.way in (Way.TOKEN, Way.HANDLE):
            asking = replace(asking, token=change.controls.confirm)
        with _confirming(entry):
            confirmed = self._confirmations.check(change.caller, digest, plan, asking)
        entry.metadata["confirmation"] = f"{asking.way} {confirmed.id}"
        return change, confirmed


async def in_time(work: Awaitable[T], deadline: Deadline | None) -> T:
    """What work gives within a deadline.

    Raises:
        DeadlineExceeded: it took too long.
    """
    try:
        async with asyncio.timeout(deadline.remaining() if deadline is not None else None):
            return await work
    except TimeoutError:
        raise DeadlineExceeded("The cluster did not answer in time.") from None


@contextmanager
def _confirming(entry: Entry) -> Iterator[None]:
    """Writes what becomes of a confirmation into the entry: what no honest client does is a security violation."""
    try:
        yield
    except ConfirmationNeeded as needed:
        entry.metadata["confirmation"] = f"{needed.way} asked"
        raise
    except ConfirmationUnavailable:
        entry.metadata["confirmation"] = "nobody can be asked"
        raise
    except ConfirmationRefused as refusal:
        entry.metadata["confirmation"] = f"refused: {refusal.why}"
        if refusal.why in VIOLATIONS:
            entry.kind = Kind.SECURITY_VIOLATION
            entry.metadata["violation_type"] = f"confirmation_{refusal.why}"
        raise


def _replayed(entry: Entry, answer: ToolAnswer) -> ToolAnswer:
    entry.mutation = False
    entry.result = Result.SUCCESS
    entry.metadata["replay_of"] = answer.replay_of
    return answer


async def _look(change: Change) -> str:
    """What the cluster says now about a change of which nobody knows whether it was made."""
    if change.tool.prepare is None:
        return "Look at the cluster."
    try:
        invocation = replace(change.invocation, dry_run=True)
        plan = await in_time(change.tool.prepare(invocation), change.invocation.deadline)
    except DomainError as error:
        return f"The cluster says now: {error.public_message}"
    if plan.changes:
        fields = "1 field" if len(plan.changes) == 1 else f"{len(plan.changes)} fields"
        return f"The cluster says now: the call would still change {fields}; `dry_run: true` shows which."
    if plan.summary and UNCHANGED not in plan.notes:
        return f"The cluster says now that this is still to be done: {plan.summary}"
    return "The cluster says now: the call would change nothing any more."
