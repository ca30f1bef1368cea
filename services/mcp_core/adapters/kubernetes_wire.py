"""What every request to the cluster shares: the connection it needs, its path, its answer as a struct."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from services.common.deadline import Deadline
from services.common.errors import InvalidArgument, Unavailable
from services.mcp_core.naming import is_path_segment
from services.mcp_core.ports import LogStream, ObjectRef

T = TypeVar("T")


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
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "",
        cut_at: int | None = None,
    ) -> Answer:
        """One request; `target` is an escaped path with query."""
        ...

    def stream(
        self, target: str, headers: list[tuple[str, str]], deadline: Deadline, caller: str
    ) -> AbstractAsyncContextManager[LogStream]:
        """One reading request whose answer is taken as it comes. caller: for whom; each has so many at once."""
        ...


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
