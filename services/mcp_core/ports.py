"""What mcp_core needs of the world outside, as protocols. No IO and no protobuf here.

The cluster is reached by an `ObjectRef` (which object) and a narrow msgspec struct (which of its fields), so
that nothing is decoded which nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Literal, Protocol, TypeVar

from services.common.deadline import Deadline
from services.mcp_core.model import (
    AccessToken,
    Action,
    AuthorizationServer,
    Caller,
    Credential,
    Decision,
    Event,
    Grant,
    RequestContext,
    Scopes,
    Suggestion,
)

T = TypeVar("T")

MANAGER = "kubegate"
"""Who owns the fields that we write, to the cluster (managedFields). One name for all callers."""

PatchForm = Literal["merge", "json", "strategic"]


@dataclass(frozen=True, slots=True)
class Impersonation:
    """As whom the cluster is asked (R2). Made by `naming.impersonation`, which refuses what must not pass.

    user: "kubegate:<issuer>:<subject>". groups: ("kubegate:role:<role that granted>",) or
    ("kubegate:direct",). request_id: sent as `extra.request-id`, so that the cluster's own audit log names our request.
    """

    user: str
    groups: tuple[str, ...]
    request_id: str


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of the cluster: API group ("" is the core group), version and plural name."""

    group: str
    version: str
    plural: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind as the cluster's discovery describes it. name: as in `kind:`; short: what kubectl also takes."""

    resource: Resource
    name: str
    namespaced: bool
    singular: str = ""
    short: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A collection (name ""), an object, or a subresource. Namespace "" is cluster scope or all namespaces."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The first `limit` items of a collection; `truncated` where the cluster has more.

    after: the cluster's own token for the next page. remaining: how many are left, where the cluster says so.
    """

    items: list[T]
    truncated: bool
    after: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table. cells: as the cluster prints them, one for each column."""

    name: str
    namespace: str
    cells: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a table's cells mean. wide: the columns that `kubectl get` shows only with `-o wide`."""

    names: tuple[str, ...]
    wide: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class LogText:
    """The end of a container's log as UTF-8 text; `truncated` where the byte bound cut it."""

    text: str
    truncated: bool


class LogStream(Protocol):
    """A log that is being written."""

    async def read(self, seconds: float) -> bytes | None:
        """What has come, at the latest after that time: b"" for nothing, None at the end of the log.

        Raises Unavailable: the connection broke.
        """
        ...


class ClusterSession(Protocol):
    """The cluster as one caller for one request. Every method is exactly one API request (R14).

    `shape` and `item` are msgspec structs with the fields wanted. Raises DomainErrors: ClusterDenied (the
    cluster's own 403, R2), NotFound, Conflict, AlreadyExists, InvalidArgument (400, 422), ResourceExhausted
    (429), Unavailable (unreachable, 5xx), DeadlineExceeded, FailedPrecondition (an answer over the bound).
    """

    async def get(self, ref: ObjectRef, shape: type[T]) -> T: ...

    async def list(
        self,
        ref: ObjectRef,
        item: type[T],
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        after: str = "",
    ) -> Page[T]:
        """`after`: that of the page before."""
        ...

    async def table(
        self, ref: ObjectRef, *, label_selector: str = "", field_selector: str = "", limit: int = 500, after: str = ""
    ) -> tuple[Columns, Page[Row]]:
        """A collection as the cluster itself prints it: of an object only its metadata leaves the cluster."""
        ...

    async def kinds(self) -> tuple[Kind, ...]:
        """Everything that can be listed, by discovery. Two requests."""
        ...

    async def schemas(self, resource: Resource) -> Mapping[str, Any]:
        """The OpenAPI v3 schemas of the resource's group and version, by name."""
        ...

    async def create(self, ref: ObjectRef, body: Mapping[str, Any], shape: type[T], *, dry_run: bool = False) -> T:
        """A new object in the collection `ref`. With `dry_run`, here and below, as it would become."""
        ...

    async def patch(
        self, ref: ObjectRef, change: Any, shape: type[T], *, form: PatchForm = "merge", dry_run: bool = False
    ) -> T:
        """JSON merge patch (RFC 7396), JSON patch (RFC 6902, a list) or strategic merge patch."""
        ...

    async def apply(
        self, ref: ObjectRef, body: Mapping[str, Any], shape: type[T], *, force: bool = False, dry_run: bool = False
    ) -> T:
        """Server-side apply. Raises ApplyConflict where another manager owns a field, unless `force`."""
        ...

    async def delete(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        """With `uid`, only that very object, and with `resource_version` only as it was then; else a Conflict."""
        ...

    async def evict(self, ref: ObjectRef, *, uid: str = "", resource_version: str = "", dry_run: bool = False) -> None:
        """The pod goes if its disruption budgets allow it now. Raises FailedPrecondition where they do not."""
        ...

    async def logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        tail_lines: int,
        previous: bool,
        limit_bytes: int,
        since_seconds: int = 0,
        timestamps: bool = False,
    ) -> LogText:
        """since_seconds: 0 is the whole log. timestamps: each line begins with its time, RFC 3339, and a space."""
        ...

    def follow_logs(
        self,
        namespace: str,
        pod: str,
        *,
        container: str,
        tail_lines: int | None = None,
        since_seconds: int = 0,
        since_time: str = "",
    ) -> AbstractAsyncContextManager[LogStream]:
        """The log's last lines, or those since a time, and what is written to it, as long as the context lasts; each
        with its time. since_time: RFC 3339, to the second; goes without the other two.

        Raises ResourceExhausted where too many logs are followed at once.
        """
        ...


class Cluster(Protocol):
    """One configured cluster."""

    name: str

    def session(self, impersonation: Impersonation | None, deadline: Deadline) -> ClusterSession:
        """The cluster as that caller. None is the core's own account: only to list namespace names."""
        ...

    async def version(self, deadline: Deadline) -> str:
        """The cluster's version, e.g. "v1.36.0", asked of it now. Raises Unavailable with the next step."""
        ...

    async def close(self) -> None: ...


class Authenticator(Protocol):
    """authn, as the core asks it. It records its own decisions (R18)."""

    async def authenticate(self, credential: Credential, context: RequestContext) -> Caller:
        """The caller behind an API key, a JWT or a client certificate.

        Raises Unauthenticated (any reason, one sentence), ResourceExhausted, Unavailable.
        """
        ...

    def vouches(self, caller: Caller) -> bool:
        """Whether the proof of this caller certainly still holds, a moment ago. Where not, nothing is said."""
        ...

    async def issue_token(self, grant: Grant, context: RequestContext) -> AccessToken:
        """A JWT for a user's password, or in exchange for another. Raises as `authenticate`; where an exchange asks
        for what is not given, InvalidArgument or PermissionDenied."""
        ...

    async def authorization_servers(self, deadline: Deadline) -> tuple[AuthorizationServer, ...]:
        """Where clients may get tokens. Raises Unavailable."""
        ...

    def known_jwks(self) -> bytes | None:
        """What `jwks` answered, where it certainly holds still: a withdrawn key is served no longer than it counts."""
        ...

    async def jwks(self, deadline: Deadline) -> bytes:
        """The public keys of those JWTs, as a JSON text (RFC 7517). Raises Unavailable."""
        ...


class Authorizer(Protocol):
    """authz, as the core asks it. It records its own decisions (R18)."""

    async def check(self, caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        """``anew``: no decision that was kept will do.

        Raises Unauthenticated (the principal token is no longer valid), ResourceExhausted, Unavailable.
        """
        ...

    async def list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        """Where the caller may do each, in the order asked. A hint, never a decision. Raises as `check`."""
        ...

    async def suggest_roles(self, caller: Caller, actions: Sequence[Action], roles: Sequence[str]) -> list[Suggestion]:
        """For each action, in the order asked, which of the roles would allow it. A hint. Raises as `check`."""
        ...


class Recorder(Protocol):
    """audit, as the core writes to it: a return means durable and in the tree."""

    async def append(self, event: Event, principal_token: str, deadline: Deadline) -> None:
        """Raises DomainError where the event is not known to be durable. May be repeated: stored once by id."""
        ...

    async def append_folded(self, key: tuple[str, ...], event: Event, deadline: Deadline) -> None:
        """The same for anonymous failures; those with one key become one counted event (R25)."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """An idempotency key that is taken. Times are seconds since 1970; `outcome` is "" until it was settled.

    same: by a call of the same tool with the same arguments; if not, nothing else is told.
    """

    same: bool
    request_id: str = ""
    claimed_at: float = 0.0
    deadline: float = 0.0
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A confirmation that is to be used. `expires`: seconds since 1970."""

    id: str
    expires: float


class Spent(Enum):
    """Why a confirmation cannot be used."""

    USED = "used"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Said:
    """The answer to a question. accepted: it was a yes. content: the client's result as JSON, or nothing."""

    accepted: bool = False
    content: bytes = field(default=b"", repr=False)


class Keeper(Protocol):
    """What happens at most once, kept by authz for all replicas of the core. Raises as `Authorizer.check`."""

    async def recall(self, caller: Caller, key: str, digest: bytes) -> Taken | None:
        """Who took the caller's key; digest: of tool and arguments."""
        ...

    async def claim(
        self, caller: Caller, key: str, digest: bytes, confirmed: Confirmed | None, until: float
    ) -> str | Taken | Spent:
        """Takes the key, if there is one, and uses the confirmation, both or neither: the id of the claim ("" without
        a key), or why not. until: when the call is over, in seconds since 1970."""
        ...

    async def settle(self, claim_id: str, outcome: str, deadline: Deadline) -> None:
        """Stores how a claim ended."""
        ...

    async def release(self, claim_id: str, deadline: Deadline) -> None:
        """Gives a key back, since nothing was done."""
        ...

    async def ask(self, caller: Caller) -> str:
        """Opens a question to the caller, who may answer it at another replica; its id."""
        ...

    async def answer(self, caller: Caller, question_id: str, said: Said) -> None:
        """Brings the answer. Raises NotFound: nothing of that id was asked of this caller."""
        ...

    async def wait(self, caller: Caller, question_id: str, seconds: float) -> Said:
        """What the caller said within that time; nothing is a no."""
        ...


class Sealer(Protocol):
    """Seals what passes through a client's hands, with a key that all replicas share."""

    def seal(self, content: bytes) -> str: ...

    def open(self, token: str) -> bytes | None:
        """The content, or None for whatever was not sealed here or was altered since."""
        ...
