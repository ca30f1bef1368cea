"""Who may write what (R22), and whose principal token each writer may show (R5).

The writer is the SPIFFE path of the peer's certificate, never something that a message says.
"""

from services.audit.event import Event, EventType, Identity, Result
from services.audit.ports import Capacity
from services.common.errors import PermissionDenied, Unauthenticated

AUTHN = "service/authn"
AUTHZ = "service/authz"
CORE = "service/mcp-core"
AUDIT = "service/audit"
_PLATFORM = "platform/"

_SHARED = frozenset({EventType.SECURITY_VIOLATION, EventType.COMPLIANCE, EventType.ADMIN})
_OWN_TYPES = {
    AUTHN: _SHARED | {EventType.AUTHENTICATION},
    AUTHZ: _SHARED | {EventType.AUTHORIZATION},
    AUDIT: _SHARED,
    # What speaks to the world gets least: a compromised core cannot forge administration (R6).
    CORE: frozenset({EventType.MCP_REQUEST, EventType.SECURITY_VIOLATION, EventType.AUTHENTICATION}),
}
_EXTERNAL = frozenset({EventType.EXTERNAL})


def check_type(writer: str, event: Event) -> None:
    """Checks that the event is of the writer's own types.

    Raises:
        PermissionDenied: it is not.
    """
    allowed = _EXTERNAL if writer.startswith(_PLATFORM) else _OWN_TYPES.get(writer, frozenset())
    if event.event_type not in allowed:
        raise PermissionDenied(f"{writer} may not write events of type {event.event_type} (R22).")
    if writer == CORE and event.event_type is EventType.AUTHENTICATION and event.result is Result.SUCCESS:
        raise PermissionDenied(f"{writer} may write authentication failures only; authn writes the rest (R22).")


def capacity(writer: str, event: Event) -> Capacity:
    """What part of the queue the event may use (R25)."""
    if event.is_intent_or_outcome:
        return Capacity.RESERVED
    return Capacity.GUEST if writer.startswith(_PLATFORM) else Capacity.SERVICE


def check_party(writer: str, identity: Identity) -> None:
    """Checks that the writer may show this token.

    authz has verified another's token itself, and authn is the issuer; everybody else shows only what was
    issued to it.

    Raises:
        Unauthenticated: the token was issued to somebody else.
    """
    if writer not in (AUTHN, AUTHZ) and identity.authorized_party != writer:
        raise Unauthenticated("The principal token was issued to another peer; authenticate again.")
