"""What the core speaks of: requests, callers, actions, decisions, events. Plain values, no protobuf, no IO."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

from services.common.deadline import Deadline
from services.common.identity import user_name


@dataclass(frozen=True, slots=True)
class Source:
    """Where a request came from, as the edge saw it. ``address`` has no port."""

    address: str
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request of a client. ``trace_id`` is a W3C trace id, 32 hex digits. ``longest``: seconds that its principal
    token has to live from now on, where that is more than until the deadline: a person may be waited for."""

    request_id: str
    trace_id: str
    interface: Literal["rest", "mcp"]
    source: Source
    deadline: Deadline
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client proves itself with. Either may be empty, not both.

    token: what followed Bearer or ApiKey. certificate: the client's (DER) of the TLS connection, whose key the
    handshake proved.
    """

    token: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)

    @property
    def whole(self) -> bytes:
        """Both, for keyed digests: a token without the certificate that it is bound to is another credential."""
        return self.token.encode("utf-8", "surrogatepass") + b"\0" + self.certificate


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the pair (issuer, subject), and which credential proved it (R1).

    ``digest``: of all that authn says about the principal but the time of proof, for caches (R11).
    """

    issuer: str
    subject: str
    credential_id: str = ""
    auth_type: str = ""
    tenant: str = ""
    digest: bytes = field(default=b"", repr=False)

    @property
    def user(self) -> str:
        """The identity in one text, as audit and authz show it: two identities never share a name (R1)."""
        return user_name(self.issuer, self.subject)


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """Where clients get tokens that authn accepts: its scopes that mean something here, and which to ask for first."""

    issuer: str
    scopes: tuple[str, ...] = ()
    initial_scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What would allow an action. ``allowed``: as it is. ``roles``: each would do, the one that grants least first."""

    allowed: bool
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request: what is left after step 1, when the client's credential has been dropped.

    token: the principal token (R5), for authz and audit only. authn_event_id: authn's record (R18).
    cached: that record is of an earlier request, whose proof was found again in the cache (R12).
    obtainable: scopes that the token lacks, each with the role that it would give. proof: what that cache finds the
    proof by; of no use elsewhere.
    """

    context: RequestContext
    principal: Principal
    token: str = field(repr=False)
    authn_event_id: str = ""
    cached: bool = False
    obtainable: tuple[tuple[str, str], ...] = ()
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A JWT for a user; ``expires_in`` is in seconds. ``exchanged``: what RFC 8693, 2.2.1 has more to say of one."""

    token: str = field(repr=False)
    expires_in: int = 0
    exchanged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PasswordGrant:
    """A user name and password, and the code of a second factor where there is one."""

    username: str
    password: str = field(repr=False)
    otp: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TokenExchange:
    """The parameters of RFC 8693, 2.1."""

    subject_token: str = field(repr=False)
    subject_token_type: str
    actor_token: str = field(default="", repr=False)
    actor_token_type: str = ""
    scope: str = ""
    requested_token_type: str = ""
    audience: tuple[str, ...] = ()
    resource: tuple[str, ...] = ()


Grant = PasswordGrant | TokenExchange


@dataclass(frozen=True, slots=True)
class Permission:
    """A row of the permission table (interface.md, Permissions). `str()` is what policy grants.

    The text derives from the resolved action, never from the tool's name (R10).
    """

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        if self.group == "kubegate":
            return f"kubegate:{self.resource}:{self.verb}"
        qualified = "." in self.group and (self.group, self.resource) not in PLAIN
        return f"k8s:{self.resource}{'.' + self.group if qualified else ''}:{self.verb}"


PLAIN = frozenset(
    {
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "ingressclasses"),
        ("networking.k8s.io", "ingresses"),
        ("networking.k8s.io", "networkpolicies"),
        ("coordination.k8s.io", "leases"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("rbac.authorization.k8s.io", "roles"),
        ("scheduling.k8s.io", "priorityclasses"),
        ("storage.k8s.io", "storageclasses"),
    }
)
"""Kinds of dotted groups whose permission is named by the plural alone; authz's table has them, a test compares."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a caller wants to do, fully resolved (R10). Namespace "" is cluster scope, never a guess (R14)."""

    cluster: str
    permission: Permission
    tool: str
    namespace: str = ""
    name: str = ""
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a caller may do something: everywhere, or in namespaces that match a pattern, less the excluded."""

    all: bool = False
    patterns: tuple[str, ...] = ()
    excluding: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.all or bool(self.patterns)

    def covers(self, namespace: str) -> bool:
        """Whether the scope names it. A hint for lists: only authz.Check decides."""
        if any(fnmatchcase(namespace, pattern) for pattern in self.excluding):
            return False
        return self.all or any(fnmatchcase(namespace, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Scopes:
    """Where a caller may do each of several things, in the order asked; the rest as in `Allowed`."""

    each: tuple[Scope, ...]
    cacheable_until: float = 0.0
    lease_revision: int = 0


@dataclass(frozen=True, slots=True)
class Allowed:
    """authz allows. ``role`` is empty for permissions that the credential has directly (R4).

    ``cacheable_until``: seconds since 1970, 0 for not at all (R11). ``lease_revision``: of WatchPolicy (R12).
    ``cached``: an earlier decision is used again; ``event_id`` is its record.
    """

    rule: str
    role: str
    revision: str
    event_id: str
    cacheable_until: float = 0.0
    lease_revision: int = 0
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Denied:
    """authz denies. The missing grant is the smallest that would have allowed it."""

    reason: str
    explanation: str
    missing_permission: str
    missing_namespace: str
    revision: str
    event_id: str


Decision = Allowed | Denied


class Result(StrEnum):
    """How a call ended; UNKNOWN until something better is known."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """Which part of a call an event speaks of."""

    WHOLE = "whole"
    INTENT = "intent"
    OUTCOME = "outcome"


class Kind(StrEnum):
    """The types of events that the core may write (R22)."""

    AUTHENTICATION = "authentication"
    MCP_REQUEST = "mcp_request"
    SECURITY_VIOLATION = "security_violation"


@dataclass(frozen=True, slots=True)
class DecisionNote:
    """A decision as an event shows it."""

    allowed: bool
    rule: str
    revision: str
    permission: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event for audit. ``deadline`` of an intent: after it, plus a grace, it is an orphan (R21)."""

    event_id: str
    timestamp: datetime
    kind: Kind
    user: str
    action: str
    resource: str
    namespace: str
    result: Result
    error: str
    metadata: Mapping[str, str]
    duration_ms: float
    tenant: str
    source: Source
    request_id: str
    trace_id: str
    phase: Phase = Phase.WHOLE
    decision: DecisionNote | None = None
    intent_id: str = ""
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool gave: structured content valid under its output schema, and the same as text.

    blocks: MCP content instead of the text, for what no text can say, such as an image. replay_of: the request that
    gave it, where it is the recorded answer of an earlier one (R20).
    """

    structured: Mapping[str, object]
    text: str
    blocks: tuple[Mapping[str, object], ...] = ()
    replay_of: str = ""


Report = Callable[[float, float | None, str], Awaitable[None]]
"""Tells the client how far a call is: how much is done, of how much where that is known, and a few words."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The client's side of one call. REST has the empty one.

    can: what the client answers if it is asked (`errors.InputRequired`): "elicitation", "sampling", "roots".
    answers: its answers to an earlier round, by the keys of that round; of no known shape, never trusted. state: what
    that round kept, as it was kept: sealed for its way through the client, and only ever that of the same principal,
    tool and arguments. report: where the client wants to hear of progress.
    """

    can: frozenset[str] = frozenset()
    answers: Mapping[str, object] = field(default_factory=dict)
    state: str = ""
    report: Report | None = None


ALONE = Dialogue()
"""A client that cannot be asked anything and hears of no progress."""
