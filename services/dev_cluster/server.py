"""The HTTPS side: TLS with client certificates, one handler for every path, refusals as Status."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import traceback

from aiohttp import web

from services.dev_cluster import bodies, discovery, errors, paths, schema
from services.dev_cluster.auth import ANONYMOUS, denied
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.config import Config
from services.dev_cluster.kinds import Object
from services.dev_cluster.rbac import Action, User
from services.dev_cluster.rest import Rest
from services.dev_cluster.watches import Watches

MAX_BODY = 3 * 1024 * 1024
# Open watches end at once; whatever else is under way gets this long.
STOP_WITHIN = 0.5
HEALTH = ("healthz", "livez", "readyz")


class StartError(Exception):
    """The server cannot start; the message says why."""


class Server:
    """Serves one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.watches = Watches(cluster.store, cluster.clock)
        self._rest = Rest(cluster, self.watches)

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
        except Exception:
            traceback.print_exc()
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
            self._require(user, Action(request.method.lower(), path=request.path))
            return self._document(request)
        self._require(user, target.action)
        return await self._rest.handle(request, target, user)

    def _require(self, user: User, action: Action) -> None:
        self._cluster.authenticator.require(user, action)

    def _document(self, request: web.Request) -> web.Response:
        """Everything that is not a resource: version, discovery, OpenAPI."""
        path = request.path.rstrip("/")
        if path in ("/api", "/apis") and f"g={discovery.AGGREGATED};v=v2;" in request.headers.get(
            "Accept", ""
        ):
            form = f"application/json;g={discovery.AGGREGATED};v=v2;as=APIGroupDiscoveryList"
            body = bodies.dump(discovery.aggregated(core=path == "/api"))
            return web.Response(body=body, headers={"Content-Type": form})
        found: Object | None = None
        parts = path.split("/")[1:]
        if path == "/version":
            found = discovery.version()
        elif path == "/api":
            found = discovery.core_versions()
        elif path == "/apis":
            found = discovery.groups()
        elif path == "/openapi/v3":
            found = schema.openapi_index()
        elif path.startswith("/openapi/v3/"):
            document = schema.openapi_document(path.removeprefix("/openapi/v3"))
            found = json.loads(document) if document else None
        elif parts[0] == "api" and len(parts) == 2:
            found = discovery.resources("", parts[1])
        elif parts[0] == "apis" and len(parts) == 2:
            found = discovery.group(parts[1])
        elif parts[0] == "apis" and len(parts) == 3:
            found = discovery.resources(parts[1], parts[2])
        if found is None:
            raise errors.unknown_path()
        return bodies.respond(found)


def tls_context(config: Config) -> ssl.SSLContext:
    """TLS 1.2 or better; a client certificate is optional, but one that is sent must be signed by the client CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    tls = config.tls
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (ssl.SSLError, OSError) as error:
        raise StartError(
            f"cannot use tls.cert_file {tls.cert_file} with tls.key_file {tls.key_file}: {error}"
        ) from error
    try:
        context.load_verify_locations(tls.client_ca_file)
    except (ssl.SSLError, OSError) as error:
        raise StartError(f"cannot use tls.client_ca_file {tls.client_ca_file}: {error}") from error
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def serve(config: Config, cluster: Cluster) -> None:
    """Serves until SIGTERM or SIGINT."""
    context = tls_context(config)
    server = Server(cluster)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=STOP_WITHIN)
    await runner.setup()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    controllers = asyncio.create_task(cluster.controllers.run())
    try:
        site = web.TCPSite(runner, config.host, config.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise StartError(f"cannot listen on {config.listen}: {error.strerror or error}") from error
        host, port = runner.addresses[0][:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if config.address_file is not None:
            _write_whole(config, address)
        print(f"development cluster (not for production) on https://{address}", file=sys.stderr, flush=True)
        await stop.wait()
    finally:
        server.watches.close()
        controllers.cancel()
        await runner.cleanup()


def _write_whole(config: Config, address: str) -> None:
    """Readers that wait for the file never see half of it."""
    assert config.address_file is not None
    part = config.address_file.with_name(config.address_file.name + ".part")
    try:
        part.write_text(address + "\n", encoding="utf-8")
        os.replace(part, config.address_file)
    except OSError as error:
        raise StartError(f"cannot write address_file {config.address_file}: {error.strerror}") from error
