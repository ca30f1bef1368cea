"""The fields of a record by their path, as filters name them."""

from collections.abc import Sequence

from services.audit.event import METADATA_KEY
from services.common.errors import InvalidArgument

PATHS = frozenset(
    {
        "action", "deadline", "duration_ms", "error_message", "event_id", "event_type", "intent_id", "namespace",
        "phase", "request_id", "resource", "result", "sequence", "tenant", "timestamp", "trace_id", "user",
        "user_source", "writer",
        "decision.allowed", "decision.permission", "decision.policy_revision", "decision.rule",
        "principal.auth_type", "principal.credential_id", "principal.issuer", "principal.subject",
        "principal.roles", "principal.groups", "principal.amr",
        "principal.actors",
        "source.address", "source.user_agent",
    }
)  # fmt: skip
"""Every field of a record but those of ``metadata``, which are ``metadata.<key>``."""


def parts(path: str) -> Sequence[str]:
    """The keys that lead to a field.

    Raises:
        InvalidArgument: a record has no such field.
    """
    head, _, rest = path.partition(".")
    if head == "metadata" and METADATA_KEY.fullmatch(rest):
        return head, rest
    if path not in PATHS:
        raise InvalidArgument(
            f"Events have no field {path[:80]!r}; fields are metadata.<key>, {', '.join(sorted(PATHS))}."
        )
    return path.split(".")
