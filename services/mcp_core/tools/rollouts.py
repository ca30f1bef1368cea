"""`wait` of what starts a rollout: the call that makes the change looks on until it is rolled out.

The change is made by then. Whatever ends the wait (the time, a revocation, a cluster that went away) makes no error of
it: the answer says what was done and how far it is, and so does the record, also where nobody waits for the answer.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from services.common.errors import DomainError
from services.mcp_core.tools.base import Arguments, Invocation, Need, Structured
from services.mcp_core.tools.looking import MAX_SECONDS, Seen, look_until
from services.mcp_core.tools.workloads import RolloutStatus, Workload, permission_of, ref_of, rollout

Wait: TypeAlias = Annotated[
    int, Meta(ge=0, le=MAX_SECONDS, description="Seconds to wait until it is rolled out; 0 does not wait.")
]


class Rollout(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How far a rollout was when the wait ended; `status` as in rollout_status, "unknown" where nothing was seen."""

    complete: bool
    status: str
    message: str
    looks: int


def rollout_needs(arguments: Arguments) -> tuple[Need, ...]:
    """Whoever waits reads the workload."""
    return (Need(permission_of(arguments), why="`wait` looks at it."),) if arguments["wait"] else ()


async def rolled_out(invocation: Invocation, answer: Structured, made: str) -> Structured:
    """The answer to a change with what became of its rollout, if it was asked to wait. made: what was done."""
    arguments = invocation.arguments
    if not arguments["wait"]:
        return answer
    invocation.leaves(made, made=True)
    kind, ref = arguments["kind"], ref_of(arguments)
    states: list[RolloutStatus] = []

    async def look() -> Seen:
        state = rollout(kind, await invocation.cluster.get(ref, Workload))
        states.append(state)
        return Seen(state.status == "complete", state.message, over=state.status in ("failed", "paused"))

    ended = ""
    try:
        seen, _ = await look_until(invocation, look, arguments["wait"])
        if not seen.met:
            ended = "" if seen.over else "The time is up; wait_for goes on waiting."
    except DomainError as error:
        ended = f"The wait ended: {error.public_message}"
    last = states[-1] if states else None
    message = " ".join(filter(None, (last.message if last else "", ended)))
    invocation.leaves(f"{made} {message}", made=True)
    status = last.status if last else "unknown"
    return {**answer, "rollout": msgspec.to_builtins(Rollout(status == "complete", status, message, len(states)))}
