"""One tree of errors that may be shown to callers.

A ``DomainError`` carries a sentence that is fit for a user: it says what is wrong and what to do next and
never a secret. Everything else that escapes a handler becomes ``Internal`` with a fixed sentence, so that
``str(exc)`` of an unexpected exception never reaches anyone.
"""

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """The google.rpc.Code numbers that kubegate uses."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class DomainError(Exception):
    """A refusal or failure with a public message.

    ``retry_after`` is in seconds; ``None`` means that waiting does not help.
    """

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(self, public_message: str, *, retry_after: float | None = None) -> None:
        super().__init__(public_message)
        self.public_message = public_message
        self.retry_after = retry_after


class InvalidArgument(DomainError):
    """The request is malformed; the message says which part."""

    code = Code.INVALID_ARGUMENT


class Unauthenticated(DomainError):
    """No valid credential. The message never says which check failed."""

    code = Code.UNAUTHENTICATED


class PermissionDenied(DomainError):
    """The caller is known and may not. Never retried."""

    code = Code.PERMISSION_DENIED


class NotFound(DomainError):
    """The named thing does not exist."""

    code = Code.NOT_FOUND


class AlreadyExists(DomainError):
    """The named thing exists already."""

    code = Code.ALREADY_EXISTS


class Conflict(DomainError):
    """Somebody else changed it in between."""

    code = Code.ABORTED


class FailedPrecondition(DomainError):
    """The system is not in the state that the request needs."""

    code = Code.FAILED_PRECONDITION


class ResourceExhausted(DomainError):
    """A limit is reached; ``retry_after`` says when to try again."""

    code = Code.RESOURCE_EXHAUSTED


class Unavailable(DomainError):
    """Something that the answer needs is away; nothing was done, a retry may succeed."""

    code = Code.UNAVAILABLE

    def __init__(self, public_message: str, *, retry_after: float | None = 1.0) -> None:
        super().__init__(public_message, retry_after=retry_after)


class DeadlineExceeded(DomainError):
    """The time given was not enough."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(DomainError):
    """The caller went away."""

    code = Code.CANCELLED


class Internal(DomainError):
    """A fault of ours. The message is always the same; the log has the rest."""

    code = Code.INTERNAL
    SENTENCE: ClassVar[str] = "Internal error. The service's log has the details under this request id."

    def __init__(self) -> None:
        super().__init__(self.SENTENCE)


_BY_CODE: dict[int, type[DomainError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        Conflict,
        FailedPrecondition,
        ResourceExhausted,
        DeadlineExceeded,
        Cancelled,
    )
}


def from_code(code: int, message: str, retry_after: float | None = None) -> DomainError:
    """The error that a peer sent as a google.rpc.Code number and a public message."""
    if code == Code.UNAVAILABLE:
        return Unavailable(message, retry_after=retry_after)
    cls = _BY_CODE.get(code)
    return cls(message, retry_after=retry_after) if cls is not None else Internal()
