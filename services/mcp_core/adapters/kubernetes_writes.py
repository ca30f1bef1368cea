"""What changes the cluster: create, patch, server-side apply, delete, evict. One method, one request.

Every write names `kubegate` as the manager of its fields and has the cluster refuse fields that it does not know;
with `dry_run` the cluster does all of it, admission included, but the storing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from services.common.deadline import Deadline
from services.common.errors import FailedPrecondition, ResourceExhausted
from services.mcp_core.adapters.kubernetes_wire import Connection, decode, path
from services.mcp_core.ports import MANAGER, ObjectRef, PatchForm

T = TypeVar("T")

_PATCH_TYPES: Mapping[PatchForm, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


@dataclass(frozen=True, slots=True)
class KubernetesWrites:
    """The writing half of a session (ports.ClusterSession). caller: for whom it asks; "" is the core itself."""

    cluster: Connection
    headers: list[tuple[str, str]]
    deadline: Deadline
    caller: str = ""

    async def create(self, ref: ObjectRef, body: Mapping[str, Any], shape: type[T], *, dry_run: bool = False) -> T:
        """A new object in the collection `ref`; its name is in the body."""
        answer = await self.cluster.send(
            "POST", path(ref) + _options(dry_run=dry_run), self.headers, self.deadline, body=body
        )
        return decode(answer.body, shape)

    async def patch(
        self, ref: ObjectRef, change: Any, shape: type[T], *, form: PatchForm = "merge", dry_run: bool = False
    ) -> T:
        """JSON merge patch (RFC 7396), JSON patch (RFC 6902, a list) or strategic merge patch."""
        answer = await self.cluster.send(
            "PATCH",
            path(ref) + _options(dry_run=dry_run),
            self.headers,
            self.deadline,
            body=change,
            content_type=_PATCH_TYPES[form],
        )
        return decode(answer.body, shape)

    async def apply(
        self, ref: ObjectRef, body: Mapping[str, Any], shape: type[T], *, force: bool = False, dry_run: bool = False
    ) -> T:
        """Server-side apply: creates the object, or makes its fields as in the body. Raises ApplyConflict."""
        target = path(ref) + _options(dry_run=dry_run) + ("&force=true" if force else "")
        answer = await self.cluster.send(
            "PATCH", target, self.headers, self.deadline, body=body, content_type="application/apply-patch+yaml"
        )
        return decode(answer.body, shape)

    async def delete(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        """With `uid`, only that very object; with `resource_version`, only as it was then."""
        await self.cluster.send(
            "DELETE", path(ref), self.headers, self.deadline, body=_deletion(uid, resource_version, dry_run=dry_run)
        )

    async def evict(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        """The pod `ref` goes, where its disruption budgets allow it now (policy/v1 Eviction).

        Raises:
            FailedPrecondition: a PodDisruptionBudget does not.
        """
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": ref.name, "namespace": ref.namespace},
            "deleteOptions": _deletion(uid, resource_version, dry_run=dry_run),
        }
        target = path(ObjectRef(ref.resource, ref.namespace, ref.name, "eviction"))
        try:
            await self.cluster.send("POST", target, self.headers, self.deadline, body=body)
        except ResourceExhausted:
            # The API's answer where a budget stands against it; it says nothing about load.
            raise FailedPrecondition(
                f"A PodDisruptionBudget does not allow pod {ref.namespace}/{ref.name} to go now. Try again when more "
                "of its pods are ready; delete_pod asks no budget."
            ) from None


def _options(*, dry_run: bool) -> str:
    options = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
    return "?" + urlencode(options | ({"dryRun": "All"} if dry_run else {}))


def _deletion(uid: str, resource_version: str, *, dry_run: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
    wanted = {"uid": uid, "resourceVersion": resource_version}
    if preconditions := {name: value for name, value in wanted.items() if value}:
        options["preconditions"] = preconditions
    if dry_run:
        options["dryRun"] = ["All"]
    return options
