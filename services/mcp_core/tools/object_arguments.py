"""Arguments of the tools that change objects of any kind, and what policy and the record read of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import InvalidArgument
from services.mcp_core import manifest
from services.mcp_core.changes import paths_of, permission_to, permissions_for, pointer, replicas_in
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.ports import Resource
from services.mcp_core.redaction import MARK
from services.mcp_core.redaction_objects import is_secret_name, redact_object
from services.mcp_core.tools.base import (
    ActionAttributes,
    Arguments,
    ConfirmableArguments,
    Permission,
    WriteArguments,
)
from services.mcp_core.tools.resources import AnyName, KindName

Place = Annotated[str, Constraint(pattern=DNS1123_LABEL, description="Its namespace; none for what has none.")]
Seen = Annotated[str, Constraint(max_length=64, description="Only if it still has this resourceVersion.")]
Manifest = Annotated[dict[str, Any] | str, Constraint(description="The object, or one YAML document.")]


class CreateArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of create_resource."""

    kind: KindName
    manifest: Manifest
    namespace: Place | UnsetType = UNSET

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "manifest", manifest.parse(self.manifest))


class ApplyArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of apply_resource."""

    kind: KindName
    manifest: Manifest
    namespace: Place | UnsetType = UNSET
    force: Annotated[bool, Constraint(description="Take over fields of other managers.")] = False

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "manifest", manifest.parse(self.manifest))


class PatchArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of patch_resource."""

    kind: KindName
    name: AnyName
    patch: Annotated[dict[str, Any] | list[dict[str, Any]], Constraint(description="A JSON patch is a list.")]
    namespace: Place | UnsetType = UNSET
    type: Literal["merge", "json", "strategic"] = "merge"
    resource_version: Seen = ""

    def __post_init__(self) -> None:
        if isinstance(self.patch, list) != (self.type == "json"):
            raise InvalidArgument("Argument `patch`: a JSON patch (`type: json`) is a list, all others are objects.")
        manifest.check({"patch": self.patch}, "patch")
        if isinstance(self.patch, list):
            _check_operations(self.patch)
        elif not isinstance(self.patch.get("metadata") or {}, dict):
            raise InvalidArgument("Argument `patch`: metadata must be an object.")


_OPERATIONS = ("add", "remove", "replace", "test")


def _check_operations(patch: list[dict[str, Any]]) -> None:
    """Refuses what a JSON patch would take from the object itself: `copy` and `move` would carry values that nobody
    shows, such as an entry of a Secret, to where they are shown, and numbers of replicas past policy.

    Raises:
        InvalidArgument: says which operation.
    """
    for index, operation in enumerate(patch):
        if operation.get("op") not in _OPERATIONS or not isinstance(operation.get("path"), str):
            raise InvalidArgument(
                f"Argument `patch`: [{index}] must have a `path` and as `op` one of {', '.join(_OPERATIONS)}; in place "
                "of copy and move, give the value itself."
            )


class DeleteArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of delete_resource."""

    kind: KindName
    name: AnyName
    namespace: Place | UnsetType = UNSET
    resource_version: Seen = ""


def create_permission(arguments: Arguments, resource: Resource) -> Permission:
    """To create an object of the kind."""
    return permission_to("create", resource)


def apply_permission(arguments: Arguments, resource: Resource) -> Permission:
    """To change an object of the kind; that it is not there yet, or what of it changes, only a look shows."""
    return permission_to("patch", resource)


def delete_permission(arguments: Arguments, resource: Resource) -> Permission:
    """To delete an object of the kind."""
    return permission_to("delete", resource)


def patch_permissions(arguments: Arguments, resource: Resource) -> tuple[Permission, ...]:
    """What the fields that a patch names need; the wider permission first."""
    found = permissions_for(resource, paths_of(arguments["patch"]))
    return tuple(sorted(found, key=lambda permission: permission != permission_to("patch", resource)))


def patch_permission(arguments: Arguments, resource: Resource) -> Permission:
    """The first of them; the others are decided when the patch was looked at."""
    return patch_permissions(arguments, resource)[0]


def manifest_name(arguments: Arguments) -> str:
    """The name in the manifest."""
    return manifest.name_of(arguments["manifest"])


def manifest_attributes(arguments: Arguments) -> ActionAttributes:
    """What policy may read of a manifest."""
    return ActionAttributes(replicas=replicas_in(arguments["manifest"]))


def patch_attributes(arguments: Arguments) -> ActionAttributes:
    """What policy may read of a patch."""
    return ActionAttributes(replicas=replicas_in(arguments["patch"]))


def recorded_manifest(arguments: Arguments) -> Arguments:
    """What get_resource would show of it; of a Secret the names of its entries."""
    given: Mapping[str, Any] = arguments["manifest"]
    if not _of_secrets(arguments) and given.get("kind") != "Secret":
        return {**arguments, "manifest": redact_object(given)}
    entries = [key for field in ("data", "stringData") if isinstance(given.get(field), dict) for key in given[field]]
    return {**arguments, "manifest": {"metadata": redact_object(given.get("metadata", {})), "entries": entries}}


def recorded_patch(arguments: Arguments) -> Arguments:
    """The same for patches; of one of a Secret, only which fields it names."""
    if _of_secrets(arguments):
        return {**arguments, "patch": [".".join(steps) for steps in paths_of(arguments["patch"])]}
    patch = arguments["patch"]
    if isinstance(patch, list):
        return {**arguments, "patch": [_recorded_operation(operation) for operation in patch]}
    return {**arguments, "patch": redact_object({"patch": patch})["patch"]}


def _recorded_operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    """An operation of a JSON patch, whose value stands under the last step of its path as far as secrets go."""
    shown = redact_object({key: value for key, value in operation.items() if key != "value"})
    if "value" in operation:
        steps = pointer(operation["path"])
        # `.../env/3/value` does not say whose value it is; and below a name such as `password` nothing is shown.
        hidden = steps[-1:] == ("value",) or any(is_secret_name(step) for step in steps)
        shown["value"] = MARK if hidden else redact_object({"value": operation["value"]})["value"]
    return shown


def _of_secrets(arguments: Arguments) -> bool:
    return str(arguments["kind"]).lower().partition(".")[0] in ("secret", "secrets")
