"""The edge as a span and a duration: where a trace begins, or goes on from its client's (W3C Trace Context)."""

from __future__ import annotations

import time
from typing import Protocol

from services.common.telemetry.metrics import REQUESTS
from services.common.telemetry.trace_context import TraceContext
from services.common.telemetry.tracing import entering
from services.mcp_core.edge.wire import Message, Receive, Response, Scope, Send


class App(Protocol):
    """The edge, as the listener serves it."""

    @property
    def routes(self) -> tuple[str, ...]:
        """Its paths; one that ends in ``/`` has names below it."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def malformed(self, address: str, status: int) -> tuple[str, Response]:
        """The id of, and the answer to, bytes that are no HTTP request."""
        ...


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class MeasuredEdge:
    """The edge around the edge. Of its routes, one that ends in ``/`` has names below it."""

    def __init__(self, app: App) -> None:
        self._app = app
        routes = app.routes
        self._routes = frozenset(route for route in routes if not route.endswith("/"))
        self._trees = tuple(route for route in routes if route.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        route = self._route(scope["path"])
        status = 499
        """Where nobody was left to answer."""

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        attributes = {"http.request.method": method, "http.route": route, "url.scheme": "https"}
        with entering(f"{method} {route}", _remote(scope), attributes, trusted=False) as here:
            try:
                await self._app(scope, receive, noting)
            finally:
                here.set({"http.response.status_code": status})
                if status >= 500:
                    here.fail(str(status))
                REQUESTS.labels(route, str(status)).observe(time.perf_counter() - began)

    def malformed(self, address: str, status: int) -> tuple[str, Response]:
        REQUESTS.labels("other", str(status)).observe(0)
        return self._app.malformed(address, status)

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        for tree in self._trees:
            if path.startswith(tree) and len(path) > len(tree):
                return f"{tree}{{name}}"
        return "other"


def _remote(scope: Scope) -> TraceContext | None:
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    # More than one is as good as none (section 3.2).
    return TraceContext.parse(found[0].decode("latin-1")) if len(found) == 1 else None
