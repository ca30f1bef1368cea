"""Secrets: create, update, delete. What is written is shown nowhere: not in answers, previews, errors or the record."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta as Constraint

from services.common.errors import InvalidArgument
from services.mcp_core.changes import permission_to, refuse_credentials
from services.mcp_core.ports import ObjectRef
from services.mcp_core.redaction import MARK
from services.mcp_core.tools.base import (
    Arguments,
    ConfirmableArguments,
    Invocation,
    Namespace,
    ObjectName,
    Plan,
    Structured,
    Tool,
    WriteArguments,
    name_argument,
)
from services.mcp_core.tools.configuration import SECRETS
from services.mcp_core.tools.planning import (
    Done,
    Versioned,
    called,
    done,
    look_at_patch,
    pinned,
    plan_change,
    plan_removal,
)

MANAGE = permission_to("create", SECRETS)

Key = Annotated[str, Constraint(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]
Encoding = Annotated[
    Literal["text", "base64"], Constraint(description="What the values are; base64 for what is no text.")
]


class CreateSecretArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of create_secret."""

    name: ObjectName
    namespace: Namespace
    data: Annotated[dict[Key, str], Constraint(max_length=1000, description="Key to value.")]
    type: Annotated[str, Constraint(max_length=253)] = "Opaque"
    encoding: Encoding = "text"


class UpdateSecretArguments(WriteArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of update_secret."""

    name: ObjectName
    namespace: Namespace
    data: Annotated[
        dict[Key, str | None],
        Constraint(min_length=1, max_length=1000, description="Key to new value; null removes. Other keys stay."),
    ]
    encoding: Encoding = "text"


class DeleteSecretArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of delete_secret."""

    name: ObjectName
    namespace: Namespace


def _ref(invocation: Invocation) -> ObjectRef:
    (namespace,) = invocation.namespaces
    return ObjectRef(SECRETS, namespace, invocation.arguments["name"])


def _encoded(arguments: Arguments) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for key, value in arguments["data"].items():
        if value is not None and arguments["encoding"] == "base64":
            try:
                base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise InvalidArgument(f"Argument `data.{key}` is not base64.") from None
            found[key] = value
        else:
            found[key] = None if value is None else base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()
    return found


def _manifest(invocation: Invocation) -> dict[str, Any]:
    ref, arguments = _ref(invocation), invocation.arguments
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": ref.name, "namespace": ref.namespace},
        "type": arguments["type"],
        "data": _encoded(arguments),
    }
    refuse_credentials(manifest, SECRETS)
    return manifest


async def _prepare_create(invocation: Invocation) -> Plan:
    ref = _ref(invocation)
    manifest = _manifest(invocation)
    summary = f"Creates {called('Secret', ref)}."
    if not invocation.dry_run:
        return Plan(summary)
    collection = ObjectRef(SECRETS, ref.namespace)
    made = await invocation.cluster.create(collection, manifest, dict, dry_run=True)
    return await plan_change("Secret", ref, {}, made, summary)


async def _create_secret(invocation: Invocation) -> Structured:
    ref = _ref(invocation)
    written = await invocation.cluster.create(ObjectRef(SECRETS, ref.namespace), _manifest(invocation), Versioned)
    return done("Secret", ref, f"Created with {len(invocation.arguments['data'])} entries.", written)


def _patch(invocation: Invocation) -> Mapping[str, Any]:
    return {"data": _encoded(invocation.arguments)}


async def _prepare_update(invocation: Invocation) -> Plan:
    ref, patch = _ref(invocation), _patch(invocation)
    summary = f"Changes {len(invocation.arguments['data'])} entries of {called('Secret', ref)}."
    if not invocation.dry_run:
        return Plan(summary)
    return await look_at_patch(invocation, "Secret", ref, patch, summary, decided=frozenset({MANAGE}))


async def _update_secret(invocation: Invocation) -> Structured:
    ref = _ref(invocation)
    patch = pinned(_patch(invocation), invocation.plan.resource_version)
    written = await invocation.cluster.patch(ref, patch, Versioned)
    return done("Secret", ref, f"Changed {len(invocation.arguments['data'])} entries.", written)


async def _prepare_delete(invocation: Invocation) -> Plan:
    ref = _ref(invocation)
    plan = await plan_removal(invocation, "Secret", ref, f"Deletes {called('Secret', ref)} for good.")
    if invocation.dry_run:
        await invocation.cluster.delete(ref, resource_version=plan.resource_version, dry_run=True)
    return plan


async def _delete_secret(invocation: Invocation) -> Structured:
    ref = _ref(invocation)
    await invocation.cluster.delete(ref, resource_version=invocation.plan.resource_version)
    return done("Secret", ref, "Deleted.")


def _without_values(arguments: Arguments) -> Arguments:
    return {**arguments, "data": dict.fromkeys(arguments["data"], MARK)}


TOOLS = (
    Tool(
        name="create_secret",
        title="Create a Secret",
        description="Makes a new Secret. Its values are neither answered nor recorded.",
        arguments=CreateSecretArguments,
        result=Done,
        permission=MANAGE,
        prepare=_prepare_create,
        run=_create_secret,
        resource_name=name_argument,
        recorded=_without_values,
    ),
    Tool(
        name="update_secret",
        title="Change a Secret",
        description="Sets or removes entries of a Secret; the others stay.",
        arguments=UpdateSecretArguments,
        result=Done,
        permission=MANAGE,
        prepare=_prepare_update,
        run=_update_secret,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
        recorded=_without_values,
    ),
    Tool(
        name="delete_secret",
        title="Delete a Secret",
        description="Deletes a Secret.",
        arguments=DeleteSecretArguments,
        result=Done,
        permission=MANAGE,
        prepare=_prepare_delete,
        run=_delete_secret,
        destructive=True,
        idempotent=True,
        resource_name=name_argument,
    ),
)
