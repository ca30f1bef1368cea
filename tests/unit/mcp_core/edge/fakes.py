"""The core's ports in memory, with switches to break each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from services.common.deadline import Deadline
from services.common.errors import DomainError, Unauthenticated, Unavailable
from services.mcp_core.edge.guard import Guard
from services.mcp_core.edge.limiter import SourceLimiter
from services.mcp_core.http import Edge, EdgeSettings
from services.mcp_core.mcp import Elicitations, McpEndpoint, McpSettings, Pack, product
from services.mcp_core.mcp.across import across
from services.mcp_core.model import (
    AccessToken,
    Action,
    Allowed,
    AuthorizationServer,
    Caller,
    Credential,
    Decision,
    Denied,
    Event,
    Grant,
    Phase,
    Principal,
    RequestContext,
    Scope,
    Scopes,
    Source,
    Suggestion,
    TokenExchange,
)
from services.mcp_core.pipeline import Pipeline
from services.mcp_core.ports import (
    Cluster,
)
from services.mcp_core.readiness import Readiness
from services.mcp_core.tools.base import (
    Invocation,
    ListArguments,
    Permission,
    Structured,
    Tool,
    name_argument,
)
from services.mcp_core.tools.namespaces import TOOLS as NAMESPACE_TOOLS
from tests.fakes.clock import FakeClock
from tests.unit.mcp_core.edge.fake_cluster import FakeCluster as FakeCluster
from tests.unit.mcp_core.edge.keeper import FakeKeeper, FakeSealer

ALICE, BOB = "kg_alice_secret", "kg_bob_secret"
BASE_URL = "https://localhost:8443"

Step = str


class Log(list[Step]):
    """What happened, in order."""


class Named(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of the fake mutation."""

    name: str
    namespace: str
    replicas: int = 1


class Answer(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What both fake tools give."""

    done: list[str]


class FakeAuthenticator:
    """Knows alice, who may do everything, and bob, who may do what `FakeAuthorizer` lists for him."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.certificates: list[bytes] = []
        self.servers: tuple[AuthorizationServer, ...] = ()
        self.asked_for_servers = 0
        self.obtainable: tuple[tuple[str, str], ...] = ()
        self.jwks_kept: bytes | None = None
        self.exchanges: list[TokenExchange] = []
        self.vouching = True

    def vouches(self, caller: Caller) -> bool:
        return self.vouching

    async def authenticate(self, credential: Credential, context: RequestContext) -> Caller:
        self.log.append("authenticate")
        self.asked.append(credential.token)
        self.certificates.append(credential.certificate)
        if self.error:
            raise self.error
        for name, secret in (("alice", ALICE), ("bob", BOB)):
            if credential.token == secret:
                principal = Principal("kubegate", name, f"key-{name}", "api_key")
                return Caller(context, principal, f"token-of-{name}", "authn-event", obtainable=self.obtainable)
        raise Unauthenticated("The credential is not valid.")

    async def issue_token(self, grant: Grant, context: RequestContext) -> AccessToken:
        self.log.append("issue_token")
        if self.error:
            raise self.error
        if isinstance(grant, TokenExchange):
            self.exchanges.append(grant)
            return AccessToken("d.e.f", 60, {"issued_token_type": "a type", "scope": grant.scope})
        if (grant.username, grant.password) != ("admin", "right"):
            raise Unauthenticated("The user name or password is wrong.")
        return AccessToken("a.b.c", 900)

    async def authorization_servers(self, deadline: Deadline) -> tuple[AuthorizationServer, ...]:
        self.asked_for_servers += 1
        if self.error:
            raise self.error
        return self.servers

    def known_jwks(self) -> bytes | None:
        return self.jwks_kept

    async def jwks(self, deadline: Deadline) -> bytes:
        if self.error:
            raise self.error
        self.log.append("jwks")
        self.jwks_kept = b'{"keys":[]}'
        return self.jwks_kept


class FakeAuthorizer:
    """`scopes`: tool name to where bob may use it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.error: Exception | None = None
        self.scopes: dict[str, Scope] = {"look": Scope(patterns=("default", "dev-*"))}
        self.roles: dict[str, str] = {}
        self.rule: Callable[[str], str] = lambda role: "role:r#1"
        self.checked: list[Action] = []
        self.suggestions: dict[str, Suggestion] = {}
        """By permission; all others are allowed already."""
        self.denied: set[str] = set()
        """Permissions that nobody has."""
        self.only: set[str] = set()
        """If anything: the only permissions that are listed."""

    def _scope(self, caller: Caller, action: Action) -> Scope:
        if str(action.permission) in self.denied or (self.only and str(action.permission) not in self.only):
            return Scope()
        return Scope(all=True) if caller.principal.subject == "alice" else self.scopes.get(action.tool, Scope())

    async def check(self, caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        self.log.append("check")
        self.checked.append(action)
        if self.error:
            raise self.error
        scope = self._scope(caller, action)
        shown = action.permission.resource == "namespaces"
        if (scope.covers(action.namespace) if action.namespace else scope.all) or (shown and scope):
            role = self.roles.get(action.namespace, "r")
            return Allowed(self.rule(role), role, "rev1", f"authz-{len(self.checked)}")
        permission = str(action.permission)
        explanation = f"{permission} is not allowed."
        return Denied("no_grant", explanation, permission, action.namespace, "rev1", f"authz-{len(self.checked)}")

    async def suggest_roles(self, caller: Caller, actions: Sequence[Action], roles: Sequence[str]) -> list[Suggestion]:
        self.log.append("suggest")
        if self.error:
            raise self.error
        return [self.suggestions.get(str(action.permission), Suggestion(True)) for action in actions]

    async def list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        self.log.append("list_allowed")
        if self.error:
            raise self.error
        return Scopes(tuple(self._scope(caller, action) for action in actions))


class FakeRecorder:
    """`fail(event)` decides which appends fail; `hold` makes them wait until it is set."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.events: list[Event] = []
        self.fail: Callable[[Event], bool] = lambda event: False
        self.error: DomainError = Unavailable("The audit service cannot be reached.")
        self.hold: asyncio.Event | None = None

    async def append(self, event: Event, principal_token: str, deadline: Deadline) -> None:
        if self.hold is not None:
            await self.hold.wait()
        name = {Phase.WHOLE: "record", Phase.INTENT: "intent", Phase.OUTCOME: "outcome"}[event.phase]
        if self.fail(event):
            self.log.append(f"{name} failed")
            raise self.error
        self.log.append(name)
        self.events.append(event)

    async def append_folded(self, key: tuple[str, ...], event: Event, deadline: Deadline) -> None:
        if self.fail(event):
            raise Unavailable("The audit service cannot be reached.")
        self.log.append("folded")
        self.events.append(event)

    @property
    def last(self) -> Event:
        return self.events[-1]


@dataclass
class World:
    """The core on fakes. `run`: what both tools do when they are executed."""

    log: Log = field(default_factory=Log)
    clock: FakeClock = field(default_factory=FakeClock)
    run: Callable[[Invocation], Awaitable[Structured]] | None = None
    invocations: list[Invocation] = field(default_factory=list)
    burst: int = 60
    max_body: int = 64 * 1024
    tools: tuple[Tool, ...] = ()
    """Served beside the fakes."""
    packed: Callable[[Mapping[str, Tool]], Pack] = product
    state_keys: tuple[bytes, ...] = (b"k" * 32,)
    first: Cluster | None = None
    """Takes the place of `cluster`."""
    further: tuple[Cluster, ...] = ()
    """Clusters beside that."""

    def __post_init__(self) -> None:
        self.authn = FakeAuthenticator(self.log)
        self.authz = FakeAuthorizer(self.log)
        self.audit = FakeRecorder(self.log)
        self.cluster = FakeCluster()
        self.keeper = FakeKeeper(self.log, self.clock)
        self.sealer = FakeSealer()
        look = Tool(
            name="look",
            title="Look",
            description="Looks.",
            arguments=ListArguments,
            result=Answer,
            permission=Permission("list", "", "pods"),
            run=self._execute,
            lists=True,
            read_only=True,
        )
        change = Tool(
            name="change",
            title="Change",
            description="Changes.",
            arguments=Named,
            result=Answer,
            permission=Permission("scale", "apps", "deployments", "scale"),
            run=self._execute,
            destructive=True,
            resource_name=name_argument,
        )
        tools = {tool.name: tool for tool in (change, *NAMESPACE_TOOLS, look, *self.tools)}
        clusters = [self.first or self.cluster, *self.further]
        self.pack = across(self.packed(dict(sorted(tools.items()))), [each.name for each in clusters])
        self.registry: dict[str, Tool] = dict(self.pack.tools)
        self.pipeline = Pipeline(
            registry=self.registry,
            authenticator=self.authn,
            authorizer=self.authz,
            recorder=self.audit,
            clusters=clusters,
            keeper=self.keeper,
            sealer=self.sealer,
            clock=self.clock,
        )

    async def _execute(self, invocation: Invocation) -> Structured:
        self.log.append("execute")
        self.invocations.append(invocation)
        if self.run is not None:
            return await self.run(invocation)
        return {"done": list(invocation.namespaces)}

    def context(self, seconds: float = 30.0) -> RequestContext:
        return RequestContext("req-1", "0" * 31 + "1", "rest", Source("192.0.2.1", "test"), Deadline.after(seconds))

    async def caller(self, credential: str = ALICE, seconds: float = 30.0) -> Caller:
        caller = await self.pipeline.authenticate(self.context(seconds), Credential(credential))
        self.log.clear()
        return caller

    def edge(self, base_url: str = BASE_URL) -> tuple[Edge, McpEndpoint]:
        """The whole edge. The endpoint serves /mcp inside `endpoint.running()`."""

        async def cluster_answers(deadline: Deadline) -> None:
            await self.cluster.version(deadline)

        elicitations = Elicitations(self.pipeline, self.keeper, self.sealer)
        settings = McpSettings(self.max_body, base_url, self.state_keys)
        endpoint = McpEndpoint(self.pipeline, self.pack, settings, elicitations)
        edge = Edge(
            EdgeSettings(base_url=base_url, max_body=self.max_body, request_seconds=30.0),
            pipeline=self.pipeline,
            endpoint=endpoint,
            authenticator=self.authn,
            registry=self.registry,
            readiness=Readiness({"cluster": cluster_answers}, self.clock),
            guard=Guard(("localhost", "127.0.0.1"), ("https://console.example",)),
            limiter=SourceLimiter(self.burst, 1.0, self.clock),
            clock=self.clock,
        )
        return edge, endpoint
