"""What the tools share that change something: what a change would do, by the cluster's own word, and what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from services.common.errors import Conflict, InvalidArgument
from services.mcp_core.changes import (
    PRIVILEGED_POD,
    danger_of_deleting,
    lets_go,
    permission_to,
    permissions_for,
    scaling,
)
from services.mcp_core.model import Permission
from services.mcp_core.pod_policy import violations
from services.mcp_core.ports import ObjectRef, PatchForm
from services.mcp_core.tools.base import UNCHANGED, Invocation, Need, Plan, Structured
from services.mcp_core.tools.diff import changed_paths, changes, fingerprint
from services.mcp_core.tools.rollouts import Rollout

LOOKS = 4
"""How often an object is looked at that changes between reading it and trying the change on it."""

MORE = "More fields change than are shown."


class Version(msgspec.Struct, frozen=True, rename="camel"):
    """Which very object, and as of when."""

    uid: str = ""
    resource_version: str = ""


class Versioned(msgspec.Struct, frozen=True):
    """What is read of an object that is only to be found again."""

    metadata: Version = Version()


@dataclass(frozen=True, slots=True)
class PatchPlan(Plan):
    """The plan of a patch, with the very patch that was looked at; it holds for that version of the object only.

    again: looks again at another version; None where only this one will do. print: a digest of what changes, of secrets
    too.
    """

    patch: Any = None
    form: PatchForm = "merge"
    print: bytes = field(default=b"", repr=False)
    again: Callable[[], Awaitable[PatchPlan]] | None = None

    def same_as(self, other: PatchPlan) -> bool:
        """Whether it does the same and needs the same."""
        return (self.print, self.needs, self.confirm) == (other.print, other.needs, other.confirm)


def parts(plan: Plan) -> dict[str, Any]:
    """What a plan holds, to make a wider one of it."""
    return {each.name: getattr(plan, each.name) for each in fields(Plan)}


class Done(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """Answer of most tools that change one object."""

    kind: str
    name: str
    message: str
    namespace: str | UnsetType = UNSET
    resource_version: str | UnsetType = UNSET
    notes: list[str] = []
    rollout: Rollout | UnsetType = UNSET


def done(
    kind: str, ref: ObjectRef, message: str, written: Versioned | None = None, notes: Sequence[str] = ()
) -> Structured:
    """The answer for one object."""
    version = written.metadata.resource_version if written is not None else ""
    answer = Done(kind, ref.name, message, ref.namespace or UNSET, version or UNSET, list(notes))
    return msgspec.to_builtins(answer)  # type: ignore[no-any-return]


def ref_for(invocation: Invocation, name: str) -> ObjectRef:
    """The object of that name, of the decided kind in the decided namespace."""
    kind = invocation.resolved_kind
    return ObjectRef(kind.resource, invocation.namespaces[0] if kind.namespaced else "", name)


def called(kind: str, ref: ObjectRef) -> str:
    """How summaries name an object."""
    return f"{kind} {ref.namespace}/{ref.name}" if ref.namespace else f"{kind} {ref.name}"


def version_of(found: Mapping[str, Any], wanted: str = "") -> str:
    """The resourceVersion of an object as read.

    Raises:
        Conflict: the caller wanted another one.
    """
    version = str((found.get("metadata") or {}).get("resourceVersion", ""))
    if wanted and wanted != version:
        raise Conflict(f"It changed meanwhile: its resourceVersion is {version}. Read it again, then decide.")
    return version


def pinned(change: Any, version: str, form: PatchForm = "merge") -> Any:
    """A patch that holds only for the object as it was read."""
    if not version:
        return change
    if form == "json":
        # As `test` it would be a 422; set, it is compared as in every write. Last, so that nothing undoes it.
        return [*change, {"op": "add", "path": "/metadata/resourceVersion", "value": version}]
    metadata = change.get("metadata") or {}
    return {**change, "metadata": {**metadata, "resourceVersion": version}}


async def look_at_patch(
    invocation: Invocation,
    kind: str,
    ref: ObjectRef,
    change: Any | Callable[[Mapping[str, Any]], Any],
    summary: str,
    *,
    form: PatchForm = "merge",
    wanted_version: str = "",
    decided: frozenset[Permission] = frozenset(),
    replicas: int | None = None,
    confirm: bool = False,
    notes: tuple[str, ...] = (),
) -> PatchPlan:
    """A patch as the cluster works it out: what changes, what that needs, and whether pods become privileged.

    change: the patch, or what makes it of the object as it is.
    """
    for left in reversed(range(LOOKS)):
        before = await invocation.cluster.get(ref, dict)
        made = change(before) if callable(change) else change
        patch = pinned(made, version_of(before, wanted_version), form)
        try:
            after = await invocation.cluster.patch(ref, patch, dict, form=form, dry_run=True)
            break
        except Conflict:
            # Its controller writes its status all the time. Nothing was changed, so look again.
            if not left:
                raise
    plan = await plan_change(
        kind, ref, before, after, summary, decided=decided, replicas=replicas, confirm=confirm, notes=notes
    )
    again = partial(
        look_at_patch,
        *(invocation, kind, ref, change, summary),
        form=form,
        decided=decided,
        replicas=replicas,
        notes=notes,
    )
    final = plan.confirm or bool(wanted_version)
    seen = await asyncio.to_thread(fingerprint, before, after)
    return PatchPlan(**parts(plan), patch=patch, form=form, print=seen, again=None if final else again)


async def patch_as_planned(invocation: Invocation, kind: str, ref: ObjectRef, message: str) -> Structured:
    """Sends the patch that was looked at. Where the object changed since, but not in what the patch comes to (its
    controller wrote its status), the patch is looked at again; what was confirmed holds for one version only.

    Raises:
        Conflict: the object changed since.
    """
    plan = invocation.plan
    assert isinstance(plan, PatchPlan)  # noqa: S101 - `prepare` of the same tool made it
    for left in reversed(range(LOOKS)):
        try:
            written = await invocation.cluster.patch(ref, plan.patch, Versioned, form=plan.form)
            break
        except Conflict:
            if not left or plan.again is None:
                raise
            now = await plan.again()
            if not now.same_as(plan):
                raise
            plan = now
    return done(kind, ref, message, written, plan.notes)


async def plan_change(
    kind: str,
    ref: ObjectRef,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    summary: str,
    *,
    decided: frozenset[Permission] = frozenset(),
    replicas: int | None = None,
    confirm: bool = False,
    notes: tuple[str, ...] = (),
) -> Plan:
    """The plan of a change between two states of an object; {} for one that is not there.

    decided: the permissions that authz was asked for already; of an object that is created, all of them. replicas: the
    number that policy was told.

    Raises:
        InvalidArgument: it sets another number of replicas than policy was told.
    """

    def compare() -> Plan:
        paths = changed_paths(before, after) if before else []
        needed = permissions_for(ref.resource, paths) if paths else ()
        size = _size(after, ref)
        sized = ("spec", "replicas") in paths
        if sized and size != replicas and (scaling(ref.resource) in needed or isinstance(size, int)):
            raise InvalidArgument(
                f"This would set spec.replicas to {size} by the way. Say so as spec.replicas, or use scale_deployment."
            )
        shown, more = changes(before, after, kind)
        # Scaling and restarting leave pods what they are, so only what makes others is judged.
        judged = not before or permission_to("patch", ref.resource) in needed
        forbidden = violations(after) if judged else []
        needs = [Need(permission) for permission in needed if permission not in decided]
        said = [*notes, *((MORE,) if more else ())]
        if forbidden:
            why = f"Its pods would be privileged beyond Pod Security 'baseline': {'; '.join(forbidden)}."
            needs.append(Need(PRIVILEGED_POD, why=why))
            said.append(why)
        gone = lets_go(paths, before, after)
        if gone:
            needs += _to_delete(ref, gone)
            said.append(gone)
        if not shown and before:
            said.append(UNCHANGED)
        return Plan(
            summary=summary,
            resource_version=version_of(before),
            confirm=confirm or bool(gone) or (sized and size == 0),
            needs=tuple(needs),
            changes=tuple(shown),
            notes=tuple(said),
        )

    # An object may be large; beside the event loop it holds up nobody.
    return await asyncio.to_thread(compare)


def _size(obj: Mapping[str, Any], ref: ObjectRef) -> Any:
    spec = obj.get("spec")
    size = spec.get("replicas") if isinstance(spec, Mapping) else None
    # The API leaves a zero out of a Scale.
    return 0 if size is None and ref.subresource == "scale" else size


def _to_delete(ref: ObjectRef, why: str) -> list[Need]:
    danger = danger_of_deleting(ref.resource)
    return [
        Need(permission_to("delete", ref.resource), why=why),
        *([Need(danger, in_cluster=True, why=why)] if danger else ()),
    ]


async def plan_removal(
    invocation: Invocation,
    kind: str,
    ref: ObjectRef,
    summary: str,
    needs: Iterable[Need] = (),
    wanted_version: str = "",
) -> Plan:
    """A deletion, which is confirmed for the object as it is now."""
    found = (await invocation.cluster.get(ref, Versioned)).metadata
    version = version_of({"metadata": {"resourceVersion": found.resource_version}}, wanted_version)
    return Plan(summary, version, confirm=True, needs=tuple(needs))


def only_container(names: Sequence[str], wanted: str) -> str:
    """The container that is meant.

    Raises:
        InvalidArgument: there are several, or none of that name.
    """
    if wanted in names:
        return wanted
    have = ", ".join(names[:20])
    if wanted:
        raise InvalidArgument(f"There is no container {wanted!r}; there are: {have}.")
    if len(names) != 1:
        raise InvalidArgument(f"Argument `container` is required, for there are several: {have}.")
    return names[0]
