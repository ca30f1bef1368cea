"""rollout_undo: back to an earlier pod template, as `kubectl rollout undo` does it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta as Constraint

from services.common.errors import FailedPrecondition, NotFound
from services.mcp_core.ports import ObjectRef, PatchForm
from services.mcp_core.tools.base import (
    Arguments,
    ConfirmableArguments,
    Invocation,
    Namespace,
    Need,
    ObjectName,
    Permission,
    Plan,
    Structured,
    Tool,
    name_argument,
)
from services.mcp_core.tools.planning import Done, called, look_at_patch, patch_as_planned
from services.mcp_core.tools.revisions import MAX_REVISIONS, REPLICA_SETS, REVISIONS
from services.mcp_core.tools.rollouts import Wait, rolled_out, rollout_needs
from services.mcp_core.tools.workloads import PATCHING, REVISION, WorkloadKind, patching, ref_of

_HASH = "pod-template-hash"

Found = Mapping[str, Any]


class UndoArguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of rollout_undo."""

    name: ObjectName
    namespace: Namespace
    to_revision: Annotated[
        int, Constraint(ge=0, description="As rollout_history numbers it; 0 is the last but one.")
    ] = 0
    kind: WorkloadKind = "deployment"
    wait: Wait = 0


async def _prepare(invocation: Invocation) -> Plan:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    kind: str = arguments["kind"]
    workload = await invocation.cluster.get(ref, dict)
    if workload["spec"].get("paused"):
        raise FailedPrecondition(f"The rollout of {called(kind, ref)} is paused; resume it first.")
    labels = (workload["spec"].get("selector") or {}).get("matchLabels") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    resource = REPLICA_SETS if kind == "deployment" else REVISIONS
    page = await invocation.cluster.list(
        ObjectRef(resource, ref.namespace), dict, label_selector=selector, limit=MAX_REVISIONS
    )
    uid = workload["metadata"]["uid"]
    owned = [
        one
        for one in page.items
        if any(owner.get("uid") == uid for owner in one["metadata"].get("ownerReferences") or ())
    ]
    number, target = choose({number_of(one): one for one in owned}, arguments["to_revision"])
    form: PatchForm = "json" if kind == "deployment" else "strategic"
    template = [{"op": "replace", "path": "/spec/template", "value": _template(target)}]
    plan = await look_at_patch(
        invocation,
        kind,
        ref,
        template if form == "json" else revision_patch(target),
        f"Rolls {called(kind, ref)} back to revision {number}.",
        form=form,
        decided=frozenset({patching(arguments)}),
        confirm=True,
    )
    if not plan.changes:
        raise FailedPrecondition(f"Revision {number} is what {called(kind, ref)} runs already.")
    return plan


def number_of(one: Found) -> int:
    """The revision that a ReplicaSet or ControllerRevision is; 0 where it says none."""
    if "revision" in one:
        return int(one["revision"])
    text = str((one["metadata"].get("annotations") or {}).get(REVISION, ""))
    return int(text) if text.isdecimal() else 0


def choose(revisions: Mapping[int, Found], wanted: int) -> tuple[int, Found]:
    """The revision to go back to; by default the last but one.

    Raises:
        NotFound: there is none.
    """
    numbers = sorted(number for number in revisions if number)
    if wanted:
        if wanted in revisions:
            return wanted, revisions[wanted]
        raise NotFound(f"There is no revision {wanted}; there are: {', '.join(map(str, numbers[-20:])) or 'none'}.")
    if len(numbers) < 2:
        raise NotFound("There is no earlier revision to go back to.")
    return numbers[-2], revisions[numbers[-2]]


def _template(replica_set: Found) -> dict[str, Any]:
    """A ReplicaSet's pod template as its Deployment wrote it."""
    template = dict((replica_set.get("spec") or {}).get("template") or {})
    metadata = dict(template.get("metadata") or {})
    metadata["labels"] = {key: value for key, value in (metadata.get("labels") or {}).items() if key != _HASH}
    return {**template, "metadata": metadata}


def revision_patch(revision: Found) -> dict[str, Any]:
    """The strategic merge patch that a ControllerRevision holds, less all but the pod template.

    Raises:
        FailedPrecondition: it holds none that is understood.
    """
    data: Any = revision.get("data")
    try:
        patch = json.loads(base64.b64decode(data)) if isinstance(data, str) else data
        template = patch["spec"]["template"]
    except (ValueError, binascii.Error, KeyError, TypeError):
        template = None
    if not isinstance(template, dict):
        raise FailedPrecondition("That revision holds no pod template that is understood.")
    return {"spec": {"template": {**template, "$patch": "replace"}}}


async def _rollout_undo(invocation: Invocation) -> Structured:
    arguments, ref = invocation.arguments, ref_of(invocation.arguments)
    said = "Rolling back; rollout_status says how far."
    answer = await patch_as_planned(invocation, arguments["kind"], ref, said)
    return await rolled_out(invocation, answer, f"{called(arguments['kind'], ref)} is rolling back.")


def _needs(arguments: Arguments) -> tuple[Need, ...]:
    resource = REPLICA_SETS if arguments["kind"] == "deployment" else REVISIONS
    return (Need(Permission("list", resource.group, resource.plural)), *rollout_needs(arguments))


TOOLS = (
    Tool(
        name="rollout_undo",
        title="Roll back",
        description="Gives a deployment, statefulset or daemonset the pod template of an earlier revision.",
        arguments=UndoArguments,
        result=Done,
        permission=Permission("patch", "apps", "deployments"),
        permission_for=patching,
        offered_for=PATCHING,
        needs=_needs,
        prepare=_prepare,
        run=_rollout_undo,
        destructive=True,
        resource_name=name_argument,
    ),
)
