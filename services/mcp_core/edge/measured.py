"""The edge as a span and a duration: where a trace begins, or goes on from its client's (W3C Trace Context)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection

from services.common.telemetry.metrics import REQUESTS
from services.common.telemetry.trace_context import TraceContext
from services.common.telemetry.tracing import entering
from services.mcp_core.edge.wire import Message, Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class MeasuredEdge:
    """An ASGI application around another one. ``routes``: its paths; what begins like one that ends in ``/`` is one."""

    def __init__(self, app: App, routes: Collection[str]) -> None:
        self._app = app
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
