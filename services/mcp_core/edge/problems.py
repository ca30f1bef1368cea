"""Domain errors as HTTP answers: the status codes of interface.md, application/problem+json (RFC 9457)."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from services.common.errors import Code, DomainError
from services.mcp_core.confirmation import CONFIRM_SECONDS, ConfirmationNeeded
from services.mcp_core.edge.guard import AmbiguousLength, HeadersTooLarge, Misdirected, UnknownVersion
from services.mcp_core.edge.wire import BodyTooLarge, Headers, Response, SlowBody
from services.mcp_core.errors import ActionDenied, ClusterRejected
from services.mcp_core.json_text import dump_json
from services.mcp_core.tools import preview_of

MEDIA_TYPE = "application/problem+json"

STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.CANCELLED: 503,
    Code.DEADLINE_EXCEEDED: 504,
}

_OF_TYPE: tuple[tuple[type[DomainError], int], ...] = (
    (BodyTooLarge, 413),
    (SlowBody, 408),
    (Misdirected, 421),
    (HeadersTooLarge, 431),
    (UnknownVersion, 505),
    (ClusterRejected, 422),
    (ConfirmationNeeded, 428),
)


class NotRouted(DomainError):
    """No such path (404) or method (405), or a body of another media type (415)."""

    def __init__(self, status: int, public_message: str, headers: Headers | None = None) -> None:
        super().__init__(public_message)
        self.status = status
        self.headers = headers or []


def status_of(error: DomainError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, NotRouted):
        return error.status
    return next((status for kind, status in _OF_TYPE if isinstance(error, kind)), STATUS[error.code])


def problem(error: DomainError, request_id: str, challenges: Headers | None = None) -> Response:
    """The answer to a request that failed. ``challenges``: WWW-Authenticate, of 401 and 403."""
    status = status_of(error)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.public_message,
        "request_id": request_id,
    }
    headers = [*(challenges or [])]
    if isinstance(error, ActionDenied) and error.permission:
        body["missing"] = {"permission": error.permission, "namespace": error.namespace}
    if isinstance(error, ConfirmationNeeded):
        body["detail"] += " Send the same arguments again with `confirm`."
        body |= {
            "confirm": error.token,
            "expires_in": int(CONFIRM_SECONDS),
            "preview": preview_of(error.plan).structured,
        }
    if isinstance(error, NotRouted):
        headers += error.headers
    if isinstance(error, AmbiguousLength):
        headers.append((b"connection", b"close"))
    if error.retry_after is not None or status in (429, 503):
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after or 1))).encode()))
    return Response(status, dump_json(body), MEDIA_TYPE, headers)
