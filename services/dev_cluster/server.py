"""The HTTP side: one handler for every path, refusals as Status."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from services.common.log import get_logger
from services.dev_cluster import bodies, discovery, errors, paths, schema
from services.dev_cluster.auth import ANONYMOUS, denied
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.kinds import Object
from services.dev_cluster.rbac import Action
from services.dev_cluster.rest import Rest
from services.dev_cluster.service_accounts import DISCOVERY_PATH, JWKS_PATH
from services.dev_cluster.watches import Watches

MAX_BODY = 3 * 1024 * 1024
_log = get_logger("dev_cluster.server")
HEALTH = ("healthz", "livez", "readyz")


class Server:
    """Serves one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.watches = Watches(cluster.store, cluster.clock)
        self._rest = Rest(cluster, self.watches)
        self._counted: Counter[tuple[str, str]] = Counter()

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except errors.ApiError as error:
            return bodies.respond(error.status(), error.code)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {MAX_BODY}"
            return bodies.respond(errors.ApiError(413, "RequestEntityTooLarge", message).status(), 413)
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:  # noqa: BLE001 - whatever goes wrong inside is told to nobody outside
            _log.exception("request failed", method=request.method, path=request.path)
            return bodies.respond(errors.ApiError(500, "InternalError", "internal error").status(), 500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path.strip("/").partition("/")[0] in HEALTH and request.method in ("GET", "HEAD"):
            return web.Response(text="ok")
        user = self._cluster.authenticator.authenticate(request)
        watch = request.query.get("watch") in ("true", "1")
        try:
            target = paths.parse(
                request.method, request.rel_url.raw_path, watch=watch,
                field_selector=request.query.get("fieldSelector", ""),
            )  # fmt: skip
        except errors.ApiError:
            # What is served here is none of a stranger's business.
            if user == ANONYMOUS:
                raise denied(user, Action(request.method.lower(), path=request.path)) from None
            raise
        if target is None:
            self._cluster.authenticator.require(user, Action(request.method.lower(), path=request.path))
            return self._document(request)
        self._cluster.authenticator.require(user, target.action)
        self._counted[(target.verb, target.kind.resource)] += 1
        return await self._rest.handle(request, target, user)

    def _metrics(self) -> str:
        """How often which resource was asked for, in the words and format of kube-apiserver's own metric."""
        name = "apiserver_request_total"
        counted = sorted(self._counted.items())
        lines = [f'{name}{{verb="{verb.upper()}",resource="{what}"}} {count}' for (verb, what), count in counted]
        return "\n".join([f"# TYPE {name} counter", *lines, ""])

    def _document(self, request: web.Request) -> web.Response:
        """Everything that is not a resource: version, discovery, OpenAPI, the issuer of ServiceAccount tokens."""
        path = request.path.rstrip("/")
        if path in ("/api", "/apis") and f"g={discovery.AGGREGATED};v=v2;" in request.headers.get("Accept", ""):
            form = f"application/json;g={discovery.AGGREGATED};v=v2;as=APIGroupDiscoveryList"
            body = bodies.dump(discovery.aggregated(core=path == "/api"))
            return web.Response(body=body, headers={"Content-Type": form})
        found: Object | None = None
        parts = path.split("/")[1:]
        if path == "/metrics":
            return web.Response(text=self._metrics())
        if path == JWKS_PATH:
            # RFC 7517, section 8.5.1: the media type that key sets have.
            return web.json_response(self._cluster.tokens.jwks(), content_type="application/jwk-set+json")
        if path == DISCOVERY_PATH:
            found = self._cluster.tokens.discovery(request.host)
        elif path == "/version":
            found = discovery.version()
        elif path == "/api":
            found = discovery.core_versions()
        elif path == "/apis":
            found = discovery.groups()
        elif path == "/openapi/v3":
            found = schema.openapi_index()
        elif path.startswith("/openapi/v3/"):
            document = schema.openapi_document(path.removeprefix("/openapi/v3"))
            if document is not None:
                return web.Response(body=document, content_type="application/json")
        elif parts[0] == "api" and len(parts) == 2:
            found = discovery.resources("", parts[1])
        elif parts[0] == "apis" and len(parts) == 2:
            found = discovery.group(parts[1])
        elif parts[0] == "apis" and len(parts) == 3:
            found = discovery.resources(parts[1], parts[2])
        if found is None:
            raise errors.unknown_path()
        return bodies.respond(found)
