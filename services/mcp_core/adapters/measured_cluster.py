"""Requests to the cluster as spans and durations, by verb and status."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from services.common.telemetry.metrics import KUBERNETES_REQUESTS
from services.common.telemetry.tracing import Span, error_type, span

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ClusterRequest:
    """One request. ``status`` is set when the cluster has answered."""

    __slots__ = ("_began", "_span", "status", "verb")

    def __init__(self, method: str, target: str, server: str, cluster: str) -> None:
        self.verb = verb_of(method, target)
        self.status = 0
        self._span = span(method, "client")
        if isinstance(self._span, Span):
            address, _, port = server.partition("://")[2].partition("/")[0].rpartition(":")
            self._span.set(
                {
                    "http.request.method": method,
                    "server.address": address or server,
                    "server.port": int(port) if port.isdigit() else 443,
                    "k8s.cluster.name": cluster,
                    "kubegate.kubernetes.verb": self.verb,
                }
            )

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status:
            status = str(self.status)
            self._span.set({"http.response.status_code": self.status})
            # That the cluster refused is its answer; an answer that we then cannot use is an error of ours.
            if self.status >= 400:
                self._span.fail(status)
                error = None
        else:
            status = "none" if error is None else error_type(error).lower()
        self._span.__exit__(type(error) if error else None, error, trace)
        KUBERNETES_REQUESTS.labels(self.verb, status).observe(time.perf_counter() - self._began)


def verb_of(method: str, target: str) -> str:
    """The Kubernetes verb of a request, as the cluster's own RBAC names it; ``get`` for what is no object."""
    if method != "GET":
        return _VERBS.get(method, "other")
    path, _, query = target.partition("?")
    if "watch=true" in query or "watch=1" in query:
        return "watch"
    parts = path.strip("/").split("/")
    root = {"api": 2, "apis": 3}.get(parts[0], 0)
    place = parts[root:] if root else []
    if len(place) > 2 and place[0] == "namespaces":
        place = place[2:]
    return "list" if len(place) == 1 else "get"
