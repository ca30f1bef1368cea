"""The HTTPS interface: paths, statuses, and who has to be authenticated where. No decisions.

Every path goes through step 0 (Host, Origin, then body and rate), and everything that concerns the cluster
through ``Pipeline``. Errors are application/problem+json with the request id; MCP's own are JSON-RPC.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError, Internal, InvalidArgument, Unauthenticated
from services.common.ids import uuid7
from services.common.log import get_logger
from services.common.telemetry.trace_context import CURRENT, TraceContext
from services.mcp_core.clusters import ARGUMENT
from services.mcp_core.confirmation import Asking, Way
from services.mcp_core.edge import token_request
from services.mcp_core.edge.credentials import NoCredential, credential
from services.mcp_core.edge.guard import (
    AmbiguousLength,
    ForeignOrigin,
    Guard,
    HeadersTooLarge,
    Misdirected,
    UnexpectedBody,
    UnknownVersion,
)
from services.mcp_core.edge.limiter import PASSWORD_COST, SourceLimiter, Throttled, source_of
from services.mcp_core.edge.oauth import METADATA_PATH, ProtectedResource
from services.mcp_core.edge.problems import NotRouted, problem
from services.mcp_core.edge.wire import (
    Disconnected,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    json_response,
)
from services.mcp_core.errors import ActionDenied
from services.mcp_core.journal import bounded
from services.mcp_core.json_text import parse_json
from services.mcp_core.mcp import HELD_SECONDS, SESSION, McpEndpoint
from services.mcp_core.model import Caller, Grant, RequestContext, Source
from services.mcp_core.offers import Offer
from services.mcp_core.openapi import document
from services.mcp_core.pipeline import Pipeline, result_of
from services.mcp_core.ports import Authenticator
from services.mcp_core.readiness import Readiness
from services.mcp_core.tools.base import Tool

TOOLS_PATH = "/mcp/tools/"

ASKING = Asking(Way.TOKEN)
"""REST asks for a confirmation with 428, and gets it as argument."""

TEXT = "text/plain; charset=utf-8"

SAID = 8192
"""Characters of a header that are looked at for the record; a cut before redaction could hide half of a secret."""

# What curl sends without being told otherwise is a form type around a JSON body.
FORM = "application/x-www-form-urlencoded"
_JSON_TYPES = frozenset({"", "application/json", FORM})

_UNSERVED = {
    HeadersTooLarge: "headers too large",
    UnexpectedBody: "body without use",
    UnknownVersion: "unknown HTTP version",
}
_VIOLATIONS = {
    Misdirected: "foreign host",
    ForeignOrigin: "foreign origin",
    AmbiguousLength: "ambiguous length of a body",
}

Handler = Callable[[Request, RequestContext], Awaitable[Response]]

log = get_logger("http")


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """``request_seconds``: what one request may take. ``base_url``: as clients see us, without path."""

    base_url: str
    max_body: int
    request_seconds: float


class Edge:
    """The ASGI application."""

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        pipeline: Pipeline,
        endpoint: McpEndpoint,
        authenticator: Authenticator,
        registry: Mapping[str, Tool],
        readiness: Readiness,
        guard: Guard,
        limiter: SourceLimiter,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._endpoint = endpoint
        self._authenticator = authenticator
        self._readiness = readiness
        self._guard = guard
        self._limiter = limiter
        self._openapi = json_response(document(registry, settings.base_url))
        self._resource = ProtectedResource(settings.base_url, authenticator.authorization_servers, clock)
        self._routes: dict[str, tuple[str, Handler]] = {
            "/mcp": ("POST", self._mcp),
            "/mcp/resources": ("GET", self._resources),
            "/auth/token": ("POST", self._issue_token),
            "/.well-known/jwks.json": ("GET", self._key_set),
            METADATA_PATH: ("GET", self._resource_metadata),
            METADATA_PATH + "/mcp": ("GET", self._resource_metadata),
            "/healthz": ("GET", self._healthy),
            "/readyz": ("GET", self._ready),
            "/openapi.json": ("GET", self._describe),
        }

    @property
    def routes(self) -> tuple[str, ...]:
        """Every path; one that ends in ``/`` has names below it."""
        return (*self._routes, TOOLS_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        request_id = uuid7()
        try:
            await self._ours(request, request_id)
            response = await self._route(request, request_id)
        except Disconnected:
            return
        except Unauthenticated as error:
            response = problem(error, request_id, await self._resource.unauthenticated(error, Deadline.after(1)))
        except ActionDenied as error:
            response = problem(error, request_id, self._resource.denied(error))
        except DomainError as error:
            response = problem(error, request_id)
        except Exception as error:
            log.error("unexpected error", request_id=request_id, exc_info=error)
            response = problem(Internal(), request_id)
        try:
            await response.send(send, request_id)
        except ActionDenied as error:
            await problem(error, request_id, self._resource.denied(error)).send(send, request_id)

    async def _route(self, request: Request, request_id: str) -> Response:
        path = request.path
        method, handler = self._routes.get(path, ("", self._healthy))
        interface: Literal["rest", "mcp"] = "mcp" if path == "/mcp" else "rest"
        if not method and path.startswith(TOOLS_PATH) and len(path) > len(TOOLS_PATH):
            method, handler = "POST", self._tool
        context = self._context(request, request_id, interface)
        if not method:
            await self._unserved(request, context, "no such path")
            raise NotRouted(404, "There is nothing at this path; /openapi.json lists what there is.")
        if request.method != method:
            # Clients of MCP ask with these whether there is a stream, or a session to end: that is no failure.
            if path != "/mcp" or request.method not in ("GET", "DELETE"):
                await self._unserved(request, context, "no such method")
            raise NotRouted(405, f"Use {method}.", [(b"allow", method.encode())])
        return await handler(request, context)

    def malformed(self, address: str, status: int) -> tuple[str, Response]:
        """The id of, and the answer to, bytes that are no HTTP request; their record is made in the background."""
        request_id = uuid7()
        context = RequestContext(
            request_id,
            secrets.token_hex(16),
            "rest",
            Source(address),
            Deadline.after(self._settings.request_seconds),
        )

        async def record() -> None:
            await self._admit(context)
            await self._pipeline.refuse_unserved(context, "malformed HTTP", {})

        self._pipeline.in_background(record())
        text = "The headers are too long." if status == 431 else "This is not a valid HTTP/1.1 request."
        return request_id, problem(NotRouted(status, text), request_id)

    async def _unserved(self, request: Request, context: RequestContext, reason: str) -> None:
        try:
            shown = credential(request).whole
        except NoCredential:
            shown = b""
        await self._admit(context, shown)
        details = {"method": request.method, "path": request.path[:SAID]}
        await self._pipeline.refuse_unserved(context, reason, details)

    def _context(self, request: Request, request_id: str, interface: Literal["rest", "mcp"]) -> RequestContext:
        here = CURRENT.get() or TraceContext.parse(request.text(b"traceparent"))
        return RequestContext(
            request_id=request_id,
            trace_id=here.trace_id if here else secrets.token_hex(16),
            interface=interface,
            # What a client says of itself goes into the records of three services.
            source=Source(request.address, bounded(request.text(b"user-agent", SAID), 256)),
            deadline=Deadline.after(self._settings.request_seconds),
            longest=HELD_SECONDS if interface == "mcp" and request.text(SESSION) else 0.0,
        )

    async def _ours(self, request: Request, request_id: str) -> None:
        """Step 0. A foreign host or page, and a body of two lengths, are security violations. Refusals are recorded as
        far as the limit of their source goes."""
        try:
            self._guard.check(request)
        except (HeadersTooLarge, UnexpectedBody, UnknownVersion) as refusal:
            context = self._context(request, request_id, "mcp" if request.path == "/mcp" else "rest")
            await self._unserved(request, context, _UNSERVED[type(refusal)])
            raise
        except (Misdirected, ForeignOrigin, AmbiguousLength) as refusal:
            context = self._context(request, request_id, "mcp" if request.path == "/mcp" else "rest")
            await self._admit(context)
            said = {name: request.text(name.encode(), SAID) for name in ("host", "origin")}
            await self._pipeline.refuse_foreign(
                context, _VIOLATIONS[type(refusal)], {name: text for name, text in said.items() if text}
            )
            raise

    async def _authenticated(self, request: Request, context: RequestContext) -> Caller:
        """Step 1. When it returns, the credential is nowhere in the request any more."""
        address = context.source.address
        try:
            shown = credential(request)
        except NoCredential as refusal:
            await self._admit(context)
            await self._pipeline.refuse_unproven(context, refusal.reason)
            raise
        finally:
            request.drop(b"authorization")
        await self._admit(context, shown.whole)
        try:
            caller = await self._pipeline.authenticate(context, shown)
        except Unauthenticated:
            self._limiter.rejected(address, shown.whole)
            raise
        self._limiter.accepted(address, shown.whole)
        return caller

    async def _admit(self, context: RequestContext, shown: bytes = b"", cost: float = 1.0) -> None:
        try:
            self._limiter.admit(context.source.address, shown, cost)
        except Throttled:
            await self._pipeline.refuse_throttled(context, source_of(context.source.address))
            raise

    async def _mcp(self, request: Request, context: RequestContext) -> Response:
        caller = await self._authenticated(request, context)
        return await self._endpoint.answer(request, caller)

    async def _tool(self, request: Request, context: RequestContext) -> Response:
        caller = await self._authenticated(request, context)
        name = request.path.removeprefix(TOOLS_PATH)
        try:
            arguments = await self._json_object(request)
        except Disconnected:
            self._pipeline.gone(caller, name)
            raise
        except DomainError as error:
            await self._pipeline.note(caller, name, result_of(error), error.public_message)
            raise
        answer = await self._pipeline.call(caller, name, arguments, ASKING)
        response = json_response(answer.structured)
        if answer.replay_of:
            response.headers.append((b"kubegate-replay-of", answer.replay_of.encode()))
        return response

    async def _resources(self, request: Request, context: RequestContext) -> Response:
        caller = await self._authenticated(request, context)
        return json_response(_offered(await self._pipeline.list_offers(caller, "resources")))

    async def _issue_token(self, request: Request, context: RequestContext) -> Response:
        address = context.source.address
        await self._admit(context, cost=PASSWORD_COST)
        try:
            asked = await self._grant(request)
        except (DomainError, Disconnected):
            await self._pipeline.refuse_malformed(context, "issue_token")
            raise
        issued = await self._pipeline.issue_token(context, asked)
        self._limiter.refund(address, PASSWORD_COST)
        answer = {"access_token": issued.token, "token_type": "Bearer", "expires_in": issued.expires_in}
        return json_response({**answer, **issued.exchanged})

    async def _key_set(self, request: Request, context: RequestContext) -> Response:
        known = self._authenticator.known_jwks()
        if known is None:
            await self._admit(context)
            known = await self._authenticator.jwks(context.deadline)
        return Response(200, known)

    async def _resource_metadata(self, request: Request, context: RequestContext) -> Response:
        if self._resource.stale:
            await self._admit(context)
        return await self._resource.metadata(context.deadline)

    async def _healthy(self, request: Request, context: RequestContext) -> Response:
        """Alive: it answers. What it is waiting for is said beside, for whoever looks here first."""
        missing = list(self._readiness.known)
        return json_response({"status": "ok", "missing": missing} if missing else {"status": "ok"})

    async def _ready(self, request: Request, context: RequestContext) -> Response:
        """Plain text: "ready", or one line for each thing that is missing."""
        missing = await self._readiness.missing()
        text = "".join(f"{line}\n" for line in missing or ["ready"]).encode()
        if not missing:
            return Response(200, text, TEXT)
        return Response(503, text, TEXT, [(b"retry-after", b"1")])

    async def _describe(self, request: Request, context: RequestContext) -> Response:
        return self._openapi

    async def _grant(self, request: Request) -> Grant:
        body = await self._posted(request)
        # What curl sends without being told otherwise is a form type around JSON.
        form = request.media_type() == FORM and body.strip() and not body.lstrip().startswith(b"{")
        return token_request.grant(token_request.form(body) if form else _object(body))

    async def _json_object(self, request: Request) -> dict[str, Any]:
        return _object(await self._posted(request))

    async def _posted(self, request: Request) -> bytes:
        if request.media_type() not in _JSON_TYPES:
            raise NotRouted(415, "Send the arguments as a JSON object, content type application/json.")
        return await request.body(self._settings.max_body)


def _object(body: bytes) -> dict[str, Any]:
    value = parse_json(body) if body else {}
    if not isinstance(value, dict):
        raise InvalidArgument("Send the arguments as one JSON object.")
    return value


def _offered(offers: list[Offer]) -> dict[str, Any]:
    resources: dict[tuple[str, str], dict[str, Any]] = {}
    tools: list[dict[str, Any]] = []
    for offer in offers:
        tool, permission = offer.tool, offer.tool.permission
        namespaces = {"all": offer.scope.all, "patterns": list(offer.scope.patterns)}
        resource = resources.setdefault(
            (permission.group, permission.resource),
            {"group": permission.group, "resource": permission.resource, "verbs": {}},
        )
        resource["verbs"][permission.verb] = {"permission": str(permission), "namespaces": namespaces}
        tools.append(
            {
                "name": tool.name,
                "title": tool.title,
                "description": tool.description,
                "permission": str(permission),
                "namespaces": namespaces,
                "read_only": tool.read_only,
                "destructive": tool.destructive,
                "input_schema": tool.input_schema,
                **({"clusters": list(offer.clusters)} if ARGUMENT in tool.input_schema["properties"] else {}),
            }
        )
    return {"resources": [resources[key] for key in sorted(resources)], "tools": tools}
