"""wait_for: looks at an object until it is as wanted, while policy still allows it (R19)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import InvalidArgument, NotFound
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.ports import ObjectRef
from services.mcp_core.redaction import redact
from services.mcp_core.tools.base import Invocation, Permission, Structured, Tool
from services.mcp_core.tools.looking import MAX_SECONDS, Seen, look_until
from services.mcp_core.tools.pod_detail import Condition
from services.mcp_core.tools.resources import COMMON, AnyName, KindName
from services.mcp_core.tools.workloads import RESOURCES, Workload, rollout


class WaitArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of wait_for."""

    kind: KindName
    name: AnyName
    condition: Annotated[
        str,
        Constraint(
            pattern=r"^[A-Za-z][A-Za-z0-9]{0,62}$",
            description="rolledout, deleted, or a condition of its status such as Ready, Available, Complete.",
        ),
    ]
    namespace: (
        Annotated[str, Constraint(pattern=DNS1123_LABEL, description="Its namespace; none for what has none.")]
        | UnsetType
    ) = UNSET
    timeout_seconds: Annotated[int, Constraint(ge=1, le=MAX_SECONDS, description="Longest wait.")] = 20


class Waited(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of wait_for. `met`: it is as wanted; `message` says what was last seen."""

    kind: str
    name: str
    condition: str
    met: bool
    message: str
    looks: int


class Status(msgspec.Struct, frozen=True):
    """What is read of any kind's status."""

    phase: Any = ""
    conditions: list[Condition] | None = None


class Thing(msgspec.Struct, frozen=True):
    """What is read of any kind."""

    status: Status = Status()


async def _wait_for(invocation: Invocation) -> Structured:
    arguments, kind = invocation.arguments, invocation.resolved_kind
    wanted = str(arguments["condition"]).lower()
    ref = ObjectRef(kind.resource, invocation.namespaces[0] if kind.namespaced else "", arguments["name"])
    workloads = {resource.plural: name for name, resource in RESOURCES.items()}
    if wanted == "rolledout" and (kind.resource.group != "apps" or kind.resource.plural not in workloads):
        raise InvalidArgument("Only deployments, statefulsets and daemonsets are rolled out; wait for a condition.")

    async def look() -> Seen:
        return await _look(invocation, ref, wanted, workloads.get(kind.resource.plural, ""))

    seen, looks = await look_until(invocation, look, arguments["timeout_seconds"])
    message = seen.message
    if not seen.met:
        message += " The time is up: call again to go on waiting, or ask diagnose for the reason."
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        Waited(kind.name, arguments["name"], arguments["condition"], seen.met, message, looks)
    )


async def _look(invocation: Invocation, ref: ObjectRef, wanted: str, workload: str) -> Seen:
    try:
        if wanted == "rolledout":
            state = rollout(workload, await invocation.cluster.get(ref, Workload))
            return Seen(state.status == "complete", state.message)
        status = (await invocation.cluster.get(ref, Thing)).status
    except NotFound:
        if wanted == "deleted":
            return Seen(True, "It is gone.")
        raise
    if wanted == "deleted":
        return Seen(False, "It is still there.")
    found = next((one for one in status.conditions or () if one.type.lower() == wanted), None)
    if found is None:
        phase = status.phase if isinstance(status.phase, str) else ""
        if phase.lower() == wanted:
            return Seen(True, f"Its phase is {phase}.")
        have = ", ".join(one.type for one in status.conditions or ()) or "none"
        return Seen(False, f"It has no such condition yet; it has: {redact(have)[:300]}.")
    said = " ".join(filter(None, (redact(found.reason), redact(found.message)[:500])))
    return Seen(found.status == "True", f"{found.type} is {found.status}. {said}".strip())


TOOLS = (
    Tool(
        name="wait_for",
        title="Wait for a state",
        description="Waits until an object is rolled out, deleted or has a condition, and says what it last saw.",
        arguments=WaitArguments,
        result=Waited,
        permission=Permission("list", "", "pods"),
        offered_for=COMMON,
        run=_wait_for,
        any_kind=True,
        waits=lambda arguments: True,
        read_only=True,
        idempotent=True,
        resource_name=lambda arguments: str(arguments["name"]),
    ),
)
