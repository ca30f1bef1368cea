"""Refusals in the shape of a Kubernetes `Status`, worded as kube-apiserver words them."""

from __future__ import annotations

from typing import Any

from services.dev_cluster.kinds import Kind, Object


class ApiError(Exception):
    """A refusal that is answered with a `Status` body."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}

    def status(self) -> Object:
        """The `Status` object to send."""
        body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason, "code": self.code}
        if self.details:
            body["details"] = self.details
        return body


def bad_request(message: str) -> ApiError:
    """The request itself makes no sense."""
    return ApiError(400, "BadRequest", message)


def not_found(kind: Kind, name: str) -> ApiError:
    """The named object does not exist."""
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', details)


def unknown_path() -> ApiError:
    """Nothing is served at this path."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(kind: Kind, name: str) -> ApiError:
    """The name is taken."""
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', details)


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    """The write was based on an older state."""
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, details)


def stale(kind: Kind, name: str) -> ApiError:
    """The resourceVersion sent is not the stored one."""
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(kind, name, why)


def invalid(kind: Kind, name: str, causes: list[tuple[str, str]]) -> ApiError:
    """The object breaks rules; `causes` are (field, what is wrong with it)."""
    text = ", ".join(f"{field}: {problem}" for field, problem in causes)
    if len(causes) > 1:
        text = f"[{text}]"
    details: dict[str, Any] = {"name": name, "group": kind.group, "kind": kind.name}
    details["causes"] = [
        {"reason": "FieldValueInvalid", "message": problem, "field": field} for field, problem in causes
    ]
    gk = f"{kind.name}.{kind.group}" if kind.group else kind.name
    return ApiError(422, "Invalid", f'{gk} "{name}" is invalid: {text}', details)


def forbidden(kind: Kind, name: str, why: str) -> ApiError:
    """RBAC, a quota or a protection says no."""
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    subject = f'{kind.resource} "{name}"' if name else kind.resource
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", details)


def expired(message: str) -> ApiError:
    """The requested history has been compacted."""
    return ApiError(410, "Expired", message)


def unauthorized() -> ApiError:
    """The credential presented is no good; says nothing about why."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def unsupported_media(given: str, known: str) -> ApiError:
    """The body's media type cannot be read."""
    message = f"the body of the request was in an unknown format ({given}) - accepted media types include: {known}"
    return ApiError(415, "UnsupportedMediaType", message)
