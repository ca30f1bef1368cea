"""Errors that only mcp_core knows: what the cluster answered, and what nobody can know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from services.common.errors import (
    Code,
    Conflict,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)


class ClusterDenied(PermissionDenied):
    """The cluster's own RBAC refused (its 403), after our policy had allowed: the second lock (R2)."""


class ClusterRejected(InvalidArgument):
    """The cluster understood the request and refuses its content (its 422)."""


class ApplyConflict(Conflict):
    """Server-side apply met fields of other managers. ``owners``: (manager, field) of each."""

    def __init__(self, public_message: str, owners: tuple[tuple[str, str], ...]) -> None:
        super().__init__(public_message)
        self.owners = owners


class NotSent(Unavailable):
    """The cluster is away, and the request never left: what it was to do was not done."""


class OutcomeUnknown(DomainError):
    """A change was sent and no answer came: it may or may not have been done. Not to be retried blindly."""

    code: ClassVar[Code] = Code.DEADLINE_EXCEEDED


class ActionDenied(PermissionDenied):
    """Policy denies. Carries the smallest grant that would have allowed it; namespace "" is cluster scope.

    scopes: what the caller may ask its authorization server for to be allowed; empty where nothing would help.
    """

    def __init__(self, public_message: str, permission: str = "", namespace: str = "") -> None:
        super().__init__(public_message)
        self.permission = permission
        self.namespace = namespace
        self.scopes: tuple[str, ...] = ()


class NotRecorded(DomainError):
    """It may have been executed, and its record is not durable, so the answer is withheld (R20).

    Not to be repeated: the change may be done. The record is still being tried.
    """

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "The call may have been executed, but its record could not be made durable, so the answer is withheld. "
            f"Do not repeat it; look at the cluster, and give request id {request_id} to an operator."
        )


class InputRequired(FailedPrecondition):
    """The call needs an answer of the client's user first (MCP 2026-07-28, input_required); nothing was done.

    requests: by a key of the server's choosing, `{"method": "elicitation/create", "params": {...}}`. state: what the
    next round needs to know; the client gets it sealed. Who can be asked is in `Dialogue.can`.
    """

    def __init__(self, public_message: str, requests: Mapping[str, Mapping[str, object]], state: str = "") -> None:
        super().__init__(public_message)
        self.requests = requests
        self.state = state
