"""Objects of any kind, custom ones included: create, apply, patch, delete.

Each is the action that it comes to, whatever the tool is called (R10): a patch of nothing but `spec.replicas` is the
scaling that scale_deployment does, and is done by the same request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from services.common.errors import Conflict, Internal, InvalidArgument, NotFound
from services.mcp_core import manifest
from services.mcp_core.changes import (
    CORDON,
    danger_of_deleting,
    permission_to,
    refuse_credentials,
    replicas_in,
    restarting,
    scaling,
)
from services.mcp_core.errors import ApplyConflict
from services.mcp_core.model import Permission
from services.mcp_core.ports import MANAGER, ObjectRef, Resource
from services.mcp_core.tools import object_arguments as given
from services.mcp_core.tools.base import Invocation, Need, Plan, Structured, Tool, fenced_json, name_argument
from services.mcp_core.tools.planning import (
    LOOKS,
    Done,
    Versioned,
    called,
    done,
    look_at_patch,
    parts,
    patch_as_planned,
    plan_change,
    plan_removal,
    ref_for,
    version_of,
)
from services.mcp_core.tools.resources import COMMON
from services.mcp_core.tools.workloads import RESOURCES

NEVER = "1"
"""A resourceVersion that no object has: an application that names it makes a new object or none (kubernetes#106745)."""


@dataclass(frozen=True, slots=True)
class ManifestPlan(Plan):
    """The plan of a creation or application. force: fields are taken from other managers. new: it is not there yet."""

    body: dict[str, Any] | None = None
    force: bool = False
    new: bool = True


def _fitted(invocation: Invocation, *, new: bool) -> tuple[ObjectRef, dict[str, Any], tuple[str, ...]]:
    kind = invocation.resolved_kind
    ref = ref_for(invocation, manifest.name_of(invocation.arguments["manifest"]))
    body, notes = manifest.fit(invocation.arguments["manifest"], kind, ref.namespace, new=new)
    refuse_credentials(body, kind.resource)
    return ref, body, tuple(notes)


def _planned(invocation: Invocation) -> tuple[ManifestPlan, dict[str, Any]]:
    plan = invocation.plan
    assert isinstance(plan, ManifestPlan)  # noqa: S101 - `prepare` of the same tool made it
    return plan, plan.body or {}


async def _prepare_create(invocation: Invocation) -> Plan:
    kind = invocation.resolved_kind
    ref, body, notes = _fitted(invocation, new=True)
    made = await invocation.cluster.create(ObjectRef(ref.resource, ref.namespace), body, dict, dry_run=True)
    plan = await plan_change(kind.name, ref, {}, made, f"Creates {called(kind.name, ref)}.", notes=notes)
    return ManifestPlan(**parts(plan), body=body)


async def _create_resource(invocation: Invocation) -> Structured:
    kind, (plan, body) = invocation.resolved_kind, _planned(invocation)
    ref = ref_for(invocation, body["metadata"]["name"])
    written = await invocation.cluster.create(ObjectRef(ref.resource, ref.namespace), body, Versioned)
    return done(kind.name, ref, "Created.", written, plan.notes)


async def _prepare_apply(invocation: Invocation) -> Plan:
    kind = invocation.resolved_kind
    ref, body, notes = _fitted(invocation, new=False)
    tried = await _try(invocation, ref, body)
    before, taken = tried.before, tried.taken
    if taken:
        notes = (*notes, f"Taken over: {_owned(taken)}.")
    plan = await plan_change(
        kind.name,
        ref,
        before,
        tried.after,
        f"{'Changes' if before else 'Creates'} {called(kind.name, ref)}"
        + (f" and takes over {len(taken)} fields of other managers." if taken else "."),
        decided=frozenset({permission_to("patch", kind.resource)}),
        replicas=replicas_in(body),
        confirm=bool(taken),
        notes=notes,
    )
    create = permission_to("create", kind.resource)
    if not before and create != permission_to("patch", kind.resource):
        plan = replace(plan, needs=(Need(create), *plan.needs))
    # Of an object that is there, this very one; of a new one, a version that no object has: where one appears in
    # between, or is another by then, the cluster refuses (409) instead of changing what nobody looked at.
    body["metadata"] |= {"uid": before["metadata"]["uid"]} if before else {"resourceVersion": NEVER}
    return ManifestPlan(**parts(plan), body=body, force=tried.force, new=not before)


@dataclass(frozen=True, slots=True)
class Tried:
    """An application as the cluster works it out. taken: (manager, field) of what it takes over."""

    before: dict[str, Any]
    after: dict[str, Any]
    force: bool
    taken: tuple[tuple[str, str], ...]


async def _try(invocation: Invocation, ref: ObjectRef, body: dict[str, Any]) -> Tried:
    """Tries it and pins the body to the version that it was tried on."""
    wanted = str(body["metadata"].pop("resourceVersion", ""))
    for left in reversed(range(LOOKS)):
        try:
            before = await invocation.cluster.get(ref, dict)
        except NotFound:
            before = {}
        body["metadata"].pop("resourceVersion", None)
        if version := version_of(before, wanted):
            body["metadata"]["resourceVersion"] = version
        try:
            return await _try_on(invocation, ref, body, before)
        except ApplyConflict as conflict:
            raise explained(conflict) from conflict
        except Conflict:
            # As in look_at_patch: it changed between the two requests.
            if not left:
                raise
    raise Internal


async def _try_on(invocation: Invocation, ref: ObjectRef, body: dict[str, Any], before: dict[str, Any]) -> Tried:
    try:
        return Tried(before, await invocation.cluster.apply(ref, body, dict, dry_run=True), False, ())
    except ApplyConflict as conflict:
        # What was created, patched or scaled through here is ours too, under the same name.
        taken = tuple(owner for owner in conflict.owners if owner[0] != MANAGER)
        if taken and not invocation.arguments["force"]:
            raise
    after = await invocation.cluster.apply(ref, body, dict, force=True, dry_run=True)
    return Tried(before, after, True, taken)


def explained(conflict: ApplyConflict) -> Conflict:
    """A conflict of server-side apply in words that say what to do."""
    others = [owner for owner in conflict.owners if owner[0] != MANAGER]
    return Conflict(
        f"Other managers own what this would change: {_owned(others)}. Leave these fields out, give them the value "
        "that they have, or set `force: true` to take them over, which has to be confirmed."
    )


def _owned(owners: Any) -> str:
    return "; ".join(f"{field} is owned by {manager}" for manager, field in owners[:20])


async def _apply_resource(invocation: Invocation) -> Structured:
    kind, (plan, body) = invocation.resolved_kind, _planned(invocation)
    ref = ref_for(invocation, body["metadata"]["name"])
    written = await invocation.cluster.apply(ref, body, Versioned, force=plan.force)
    unchanged = written.metadata.resource_version == plan.resource_version and not plan.new
    said = "Created." if plan.new else "Nothing had to change." if unchanged else "Changed."
    return done(kind.name, ref, said, written, plan.notes)


def _patched(invocation: Invocation) -> tuple[ObjectRef, frozenset[Permission]]:
    """The object, or where nothing but the number of pods changes its scale, and what authz was asked for."""
    arguments, resource = invocation.arguments, invocation.resolved_kind.resource
    ref = ref_for(invocation, arguments["name"])
    asked = given.patch_permissions(arguments, resource)
    if asked == (scaling(resource),):
        ref = ObjectRef(ref.resource, ref.namespace, ref.name, "scale")
    return ref, frozenset(asked)


async def _prepare_patch(invocation: Invocation) -> Plan:
    arguments, kind = invocation.arguments, invocation.resolved_kind
    ref, asked = _patched(invocation)
    change = arguments["patch"]
    wanted = arguments["resource_version"]
    if isinstance(change, dict):
        metadata = change.get("metadata")
        if isinstance(metadata, dict):
            for field in ("name", "namespace"):
                if metadata.get(field) not in (None, getattr(ref, field)):
                    raise InvalidArgument(f"Argument `patch`: metadata.{field} cannot be changed.")
            wanted = wanted or str(metadata.get("resourceVersion") or "")
    replicas = replicas_in(change)
    if scaling(kind.resource) in asked and replicas is None:
        raise InvalidArgument("Argument `patch`: spec.replicas must be a number.")
    plan = await look_at_patch(
        invocation,
        kind.name,
        ref,
        change,
        f"Patches {called(kind.name, ref)}.",
        form=arguments["type"],
        wanted_version=wanted,
        decided=frozenset({given.patch_permission(arguments, kind.resource)}),
        replicas=replicas,
    )
    # A field that is named and stays as it is was asked for all the same.
    rest = asked - {given.patch_permission(arguments, kind.resource)} - {need.permission for need in plan.needs}
    return replace(plan, needs=(*plan.needs, *map(Need, sorted(rest, key=str))))


async def _patch_resource(invocation: Invocation) -> Structured:
    ref, _ = _patched(invocation)
    return await patch_as_planned(invocation, invocation.resolved_kind.name, ref, "Patched.")


async def _prepare_delete(invocation: Invocation) -> Plan:
    arguments, kind = invocation.arguments, invocation.resolved_kind
    ref = ref_for(invocation, arguments["name"])
    danger = danger_of_deleting(kind.resource)
    what = f"Deletes {called(kind.name, ref)}"
    plan = await plan_removal(
        invocation,
        kind.name,
        ref,
        f"{what} and everything in it." if danger else f"{what} and what belongs to it.",
        [Need(danger, in_cluster=True)] if danger else (),
        arguments["resource_version"],
    )
    if invocation.dry_run:
        await invocation.cluster.delete(ref, resource_version=plan.resource_version, dry_run=True)
    return plan


async def _delete_resource(invocation: Invocation) -> Structured:
    ref = ref_for(invocation, invocation.arguments["name"])
    await invocation.cluster.delete(ref, resource_version=invocation.plan.resource_version)
    return done(invocation.resolved_kind.name, ref, "Being deleted; wait_for says when it is gone.")


def _offered(verb: str) -> tuple[Permission, ...]:
    return tuple(permission_to(verb, Resource(one.group, "", one.resource)) for one in COMMON)


TOOLS = (
    Tool(
        name="create_resource",
        title="Create any object",
        description="Makes a new object of any kind, custom ones included.",
        arguments=given.CreateArguments,
        result=Done,
        permission=Permission("create", "", "pods"),
        permission_on=given.create_permission,
        offered_for=_offered("create"),
        prepare=_prepare_create,
        run=_create_resource,
        any_kind=True,
        resource_name=given.manifest_name,
        attributes=given.manifest_attributes,
        recorded=given.recorded_manifest,
        text=fenced_json,
    ),
    Tool(
        name="apply_resource",
        title="Apply an object",
        description="Makes an object of any kind be as the manifest says (server-side apply): creates it, or changes "
        "the fields named; fields that you applied before and now leave out go.",
        arguments=given.ApplyArguments,
        result=Done,
        permission=Permission("patch", "", "pods"),
        permission_on=given.apply_permission,
        offered_for=_offered("patch"),
        prepare=_prepare_apply,
        run=_apply_resource,
        any_kind=True,
        destructive=True,
        idempotent=True,
        resource_name=given.manifest_name,
        attributes=given.manifest_attributes,
        recorded=given.recorded_manifest,
        text=fenced_json,
    ),
    Tool(
        name="patch_resource",
        title="Patch any object",
        description="Changes fields of an object of any kind: merge patch, JSON patch or strategic merge patch.",
        arguments=given.PatchArguments,
        result=Done,
        permission=Permission("patch", "", "pods"),
        permission_on=given.patch_permission,
        offered_for=(
            *_offered("patch"),
            *(scaling(RESOURCES[kind]) for kind in ("deployment", "statefulset")),
            *map(restarting, RESOURCES.values()),
            CORDON,
        ),
        prepare=_prepare_patch,
        run=_patch_resource,
        any_kind=True,
        destructive=True,
        resource_name=name_argument,
        attributes=given.patch_attributes,
        recorded=given.recorded_patch,
        text=fenced_json,
    ),
    Tool(
        name="delete_resource",
        title="Delete any object",
        description="Deletes an object of any kind and what belongs to it.",
        arguments=given.DeleteArguments,
        result=Done,
        permission=Permission("delete", "", "pods"),
        permission_on=given.delete_permission,
        offered_for=_offered("delete"),
        prepare=_prepare_delete,
        run=_delete_resource,
        any_kind=True,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
