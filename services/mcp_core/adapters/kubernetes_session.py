"""The cluster as one caller: references become paths, answers become structs. One method, one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from services.common.deadline import Deadline
from services.common.errors import InvalidArgument, Unavailable
from services.mcp_core.naming import is_path_segment
from services.mcp_core.ports import LogText, ObjectRef, Page, Resource

T = TypeVar("T")

_PODS = Resource("", "v1", "pods")


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its bytes, and whether more were there than were read."""

    body: bytes
    truncated: bool


class Connection(Protocol):
    """What a session needs of its cluster."""

    async def send(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        deadline: Deadline,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        cut_at: int | None = None,
    ) -> Answer:
        """One request; `target` is an escaped path with query."""
        ...


class ListMeta(msgspec.Struct, frozen=True):
    """Metadata of a collection; `continue` is set where there is more."""

    more: str = msgspec.field(name="continue", default="")


class ObjectList(msgspec.Struct, Generic[T], frozen=True):
    """A collection as the cluster sends it."""

    items: list[T] | None = None
    metadata: ListMeta = ListMeta()


@dataclass(frozen=True, slots=True)
class KubernetesSession:
    """The cluster as one caller for one request (ports.ClusterSession)."""

    cluster: Connection
    headers: list[tuple[str, str]]
    deadline: Deadline

    async def get(self, ref: ObjectRef, shape: type[T]) -> T:
        """One object."""
        answer = await self.cluster.send("GET", path(ref), self.headers, self.deadline)
        return decode(answer.body, shape)

    async def list(self, ref: ObjectRef, item: type[T], *, label_selector: str = "", limit: int = 500) -> Page[T]:
        """The first `limit` of a collection."""
        query = {"limit": str(limit), **({"labelSelector": label_selector} if label_selector else {})}
        answer = await self.cluster.send("GET", f"{path(ref)}?{urlencode(query)}", self.headers, self.deadline)
        found: ObjectList[T] = decode(answer.body, _list_of(item))  # type: ignore[arg-type]
        return Page(items=found.items or [], truncated=bool(found.metadata.more))

    async def patch(self, ref: ObjectRef, merge_patch: Mapping[str, Any], shape: type[T]) -> T:
        """JSON merge patch (RFC 7396)."""
        answer = await self.cluster.send(
            "PATCH",
            path(ref),
            self.headers,
            self.deadline,
            body=merge_patch,
            content_type="application/merge-patch+json",
        )
        return decode(answer.body, shape)

    async def delete(self, ref: ObjectRef, *, uid: str = "") -> None:
        """With `uid`, only that very object."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        await self.cluster.send("DELETE", path(ref), self.headers, self.deadline, body=options)

    async def logs(
        self, namespace: str, pod: str, *, container: str, tail_lines: int, previous: bool, limit_bytes: int
    ) -> LogText:
        """The end of a container's log."""
        query = {"tailLines": str(tail_lines), "limitBytes": str(limit_bytes)}
        if container:
            query["container"] = container
        if previous:
            query["previous"] = "true"
        target = f"{path(ObjectRef(_PODS, namespace, pod, 'log'))}?{urlencode(query)}"
        answer = await self.cluster.send("GET", target, self.headers, self.deadline, cut_at=limit_bytes)
        truncated = answer.truncated or len(answer.body) >= limit_bytes
        return LogText(text=answer.body.decode("utf-8", "replace"), truncated=truncated)


def path(ref: ObjectRef) -> str:
    """The escaped API path of a reference.

    Raises:
        InvalidArgument: a name cannot be a part of a path.
    """
    resource = ref.resource
    parts = ["apis", resource.group, resource.version] if resource.group else ["api", resource.version]
    if ref.namespace:
        parts += ["namespaces", ref.namespace]
    parts.append(resource.plural)
    parts += [part for part in (ref.name, ref.subresource) if part]
    for part in parts:
        if not is_path_segment(part):
            raise InvalidArgument("A name has characters that no name in Kubernetes has.")
    return "/" + "/".join(quote(part, safe="") for part in parts)


def decode(body: bytes, shape: type[T]) -> T:
    """The fields wanted of an answer.

    Raises:
        Unavailable: it is not what a Kubernetes API sends.
    """
    decoder: msgspec.json.Decoder[T] = _decoder(shape)  # type: ignore[arg-type]
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise Unavailable(
            f"The cluster's answer is not understood (as {shape.__name__}). The operator should check that mcp_core's "
            "kubeconfig names a Kubernetes API.",
            retry_after=None,
        ) from error


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


@cache
def _list_of(item: Any) -> Any:
    return ObjectList[item]
