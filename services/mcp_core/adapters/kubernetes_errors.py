"""What the cluster refuses, as errors of ours: its status code decides, its message is passed on redacted."""

from __future__ import annotations

import re

import msgspec

from services.common.errors import (
    AlreadyExists,
    Conflict,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.mcp_core.errors import ApplyConflict, ClusterDenied, ClusterRejected, OutcomeUnknown
from services.mcp_core.redaction import redact

MESSAGE_CHARACTERS = 500
"""Longest message of the cluster that is passed on."""


class Cause(msgspec.Struct, frozen=True):
    """One reason for a refusal."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Details(msgspec.Struct, frozen=True):
    """What is read of a Status' details."""

    causes: list[Cause] | None = None


class Status(msgspec.Struct, frozen=True):
    """A Kubernetes Status object (meta/v1)."""

    message: str = ""
    reason: str = ""
    details: Details | None = None


_OWNER = re.compile(r'conflict with "((?:[^"\\]|\\.)*)"')
MAX_OWNERS = 50
"""Most fields of other managers that a conflict of server-side apply names."""


_STATUS = msgspec.json.Decoder(Status)


def from_status(cluster: str, code: int, body: bytes, retry_after: str | None, *, changes: bool) -> DomainError:
    """The error for an HTTP status of 300 or more. `changes`: the request was to change something.

    A 403 is said to be the cluster's, since our own policy had allowed (R2). A 401 is about the core's own
    credential, so the caller can do nothing. After 500, 502 and 504 nobody knows whether a change was made.
    """
    try:
        status = _STATUS.decode(body)
    except msgspec.DecodeError:
        status = Status(message=body[:MESSAGE_CHARACTERS].decode("utf-8", "replace"))
    message = redact(status.message)[:MESSAGE_CHARACTERS].strip() or f"HTTP status {code}"
    wait = float(retry_after) if retry_after and retry_after.isdecimal() else 1.0
    match code:
        case 403:
            return ClusterDenied(
                f"kubegate's policy allows this, but the cluster's own RBAC refuses it: {message}. "
                "`kubegate cluster rbac` prints the grants that match the policy."
            )
        case 404:
            return NotFound(
                f"The cluster says: {message}. Names are exact: list what there is, in the right namespace."
            )
        case 410:
            return FailedPrecondition("The list went on changing and the cluster forgot this page; start again.")
        case 409 if owners := _owners(status):
            return ApplyConflict(f"The cluster says: {message}", owners)
        case 409 if status.reason == "AlreadyExists":
            return AlreadyExists(f"The cluster says: {message}")
        case 409:
            return Conflict(f"The cluster says: {message}. It changed meanwhile: read it again, then decide.")
        case 400:
            return InvalidArgument(f"The cluster says: {message}. Correct the argument that it names.")
        case 422:
            return ClusterRejected(f"The cluster says: {message}")
        case 429:
            return ResourceExhausted(f"Cluster {cluster} asks to slow down.", retry_after=wait)
        case 401:
            return Unavailable(
                f"Cluster {cluster} does not accept kubegate's own credential. The operator should renew mcp_core's "
                "kubeconfig and restart mcp_core.",
                retry_after=None,
            )
        case 500 | 502 | 504 if changes:
            return OutcomeUnknown(
                f"Cluster {cluster} failed while making the change ({message}): it may or may not have been done. "
                "Look before trying again."
            )
        case _ if code >= 500:
            return Unavailable(f"Cluster {cluster} failed: {message}", retry_after=wait)
        case _:
            return FailedPrecondition(f"Cluster {cluster} refuses the request with HTTP status {code}: {message}")


def _owners(status: Status) -> tuple[tuple[str, str], ...]:
    """(manager, field) of each conflict of server-side apply."""
    causes = (status.details.causes if status.details else None) or ()
    found = []
    for cause in causes[:MAX_OWNERS]:
        if cause.reason == "FieldManagerConflict":
            named = _OWNER.match(cause.message)
            manager = named[1] if named else cause.message.removeprefix("conflict with ")
            found.append((redact(manager)[:128], redact(cause.field.removeprefix("."))[:256]))
    return tuple(found)
