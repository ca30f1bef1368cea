"""The subresources: status and its like, scale, log, eviction, token."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from aiohttp import web

from services.dev_cluster import bodies, budgets, errors, logs, patch, schema
from services.dev_cluster.clock import parse
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.kinds import (
    EVICTION,
    SCALE,
    TOKEN_REQUEST,
    Kind,
    Object,
)
from services.dev_cluster.paths import Target
from services.dev_cluster.pods import CRASH_AFTER, Run
from services.dev_cluster.watches import Watches
from services.dev_cluster.writes import Options

FOLLOW_EVERY = 0.5


class Subresources:
    """Answers authorized requests for subresources."""

    def __init__(self, cluster: Cluster, watching: Watches) -> None:
        self._cluster = cluster
        self._watching = watching

    async def handle(self, request: web.Request, target: Target, options: Options) -> web.StreamResponse:
        """Answers one request."""
        special = {"log": self._log, "eviction": self._evict, "token": self._token}.get(target.subresource)
        if special is not None:
            return await special(request, target, options)
        how = ""
        change: Any = None
        if target.verb == "update":
            change = await bodies.read_object(request)
        elif target.verb == "patch":
            how, change = await bodies.read_patch(request)
        # The body is read before the object, so that nothing can change between reading and writing the object.
        owner = self._owner(target)
        shown = _scale_of(owner) if target.subresource == "scale" else owner
        if target.verb == "get":
            return bodies.respond(shown)
        wanted = patch.patched("merge" if how == "apply" else how, shown, change) if how else change
        if target.subresource == "scale":
            return bodies.respond(self._scale(target.kind, owner, wanted, options))
        changed = self._cluster.writer.update(target.kind, owner, wanted, options, target.subresource)
        return bodies.respond(changed, 200, options.warnings)

    def _owner(self, target: Target) -> Object:
        namespace = target.namespace if target.kind.namespaced else ""
        return self._cluster.store.read(target.kind, namespace, target.name)

    def _scale(self, kind: Kind, owner: Object, wanted: Any, options: Options) -> Object:
        wanted = schema.decode(SCALE, wanted)[0]
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        if replicas < 0:
            causes = [("spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0")]
            raise errors.invalid(SCALE, owner["metadata"]["name"], causes)
        new = copy.deepcopy(owner)
        new["spec"]["replicas"] = replicas
        new["metadata"]["resourceVersion"] = (wanted.get("metadata") or {}).get("resourceVersion")
        return _scale_of(self._cluster.writer.update(kind, owner, new, options))

    async def _evict(self, request: web.Request, target: Target, options: Options) -> web.StreamResponse:
        deletion = (await bodies.read_typed(request, EVICTION)).get("deleteOptions") or {}
        dry_run = options.dry_run or bool(deletion.get("dryRun"))
        pod = self._owner(target)
        budgets.check(self._cluster.store, pod)
        self._cluster.writer.delete(target.kind, pod, deletion, dry_run=dry_run)
        return bodies.respond({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, 201)

    async def _token(self, request: web.Request, target: Target, options: Options) -> web.StreamResponse:
        spec = (await bodies.read_typed(request, TOKEN_REQUEST)).get("spec") or {}
        account = self._owner(target)
        status = {} if options.dry_run else self._cluster.tokens.issue(account, spec)
        spec = {"audiences": [], "expirationSeconds": 3600} | spec
        meta = {key: account["metadata"][key] for key in ("name", "namespace")}
        answer: Object = {"apiVersion": TOKEN_REQUEST.api_version, "kind": TOKEN_REQUEST.name, "metadata": meta}
        return bodies.respond(answer | {"spec": spec, "status": status}, 201)

    async def _log(self, request: web.Request, target: Target, _options: Options) -> web.StreamResponse:
        pod = self._owner(target)
        query = request.query
        container = _container(pod, query.get("container", ""))
        run = self._run(pod, container, previous=query.get("previous") == "true")
        timestamps = query.get("timestamps") == "true"
        since = _since(query.get("sinceTime", ""), query.get("sinceSeconds", ""), self._cluster.clock.now())
        now = self._cluster.clock.now()
        written = [line for line in logs.lines(pod, container, run, now, crashing=_crashes(pod)) if line[0] >= since]
        tail = _count(query.get("tailLines", ""), "tailLines")
        if tail is not None:
            written = written[-tail:] if tail else []
        text = "".join(logs.render(line, timestamps=timestamps) for line in written).encode()
        limit = _count(query.get("limitBytes", ""), "limitBytes")
        if limit is not None:
            text = text[:limit]
        if query.get("follow") != "true":
            return web.Response(body=text, content_type="text/plain")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write(text)
            while (fresh := await self._more(pod, container, run, now)) is not None:
                now, lines = fresh
                await response.write("".join(logs.render(line, timestamps=timestamps) for line in lines).encode())
            await response.write_eof()
        return response

    async def _more(
        self, pod: Object, container: Object, run: Run, then: float
    ) -> tuple[float, list[logs.Line]] | None:
        """What a run has written since, a moment later; None once it is over or the server stops."""
        if run.end is not None or not await self._watching.sleep(FOLLOW_EVERY):
            return None
        life = self._cluster.controllers.pods.life(pod)
        current = next((r for r in life.runs if r.start == run.start), None) if life else None
        if current is None or (current.end is not None and current.end < then):
            return None
        now = self._cluster.clock.now()
        crashing = _crashes(pod)
        return now, [line for line in logs.lines(pod, container, current, now, crashing=crashing) if line[0] > then]

    def _run(self, pod: Object, container: Object, *, previous: bool) -> Run:
        life = self._cluster.controllers.pods.life(pod)
        runs = life.runs if life else []
        name, pod_name = container["name"], pod["metadata"]["name"]
        if previous:
            ended = [run for run in runs if run.end is not None]
            if not ended or life is None or life.state not in ("running", "backoff"):
                raise errors.bad_request(f'previous terminated container "{name}" in pod "{pod_name}" not found')
            return ended[-1]
        if not runs:
            raise errors.bad_request(f'container "{name}" in pod "{pod_name}" is waiting to start: ContainerCreating')
        return runs[-1]


def _container(pod: Object, name: str) -> Object:
    containers: list[Object] = pod["spec"]["containers"]
    pod_name = pod["metadata"]["name"]
    if not name and len(containers) > 1:
        names = " ".join(container["name"] for container in containers)
        raise errors.bad_request(f"a container name must be specified for pod {pod_name}, choose one of: [{names}]")
    for container in containers:
        if container["name"] == name or not name:
            return container
    raise errors.bad_request(f"container {name} is not valid for pod {pod_name}")


def _crashes(pod: Object) -> bool:
    return CRASH_AFTER in (pod["metadata"].get("annotations") or {})


def _count(text: str, name: str) -> int | None:
    if text and not text.isdecimal():
        raise errors.bad_request(f"invalid {name}: {text!r}")
    return int(text) if text else None


def _since(moment: str, seconds: str, now: float) -> float:
    if moment:
        try:
            return parse(moment)
        except ValueError as error:
            raise errors.bad_request(f"invalid sinceTime: {moment!r}") from error
    back = _count(seconds, "sinceSeconds")
    return 0.0 if back is None else now - back


def _scale_of(owner: Object) -> Object:
    meta, status = owner["metadata"], owner.get("status") or {}
    labels = (owner["spec"].get("selector") or {}).get("matchLabels") or {}
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    scale: Object = {"apiVersion": SCALE.api_version, "kind": "Scale"}
    scale["metadata"] = {key: meta[key] for key in shown if key in meta}
    scale["spec"] = {"replicas": owner["spec"]["replicas"]}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    scale["status"] = {"replicas": status.get("replicas", 0), "selector": selector}
    return scale
