"""The verbs on resources: get, list, watch, create, update, patch, delete and deletecollection."""

from __future__ import annotations

import base64
import json
from typing import Any

from aiohttp import web

from services.dev_cluster import (
    bodies,
    errors,
    kinds,
    metrics,
    patch,
    schema,
    selectors,
    subresources,
    tables,
    watches,
)
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.kinds import Kind, Object
from services.dev_cluster.paths import Target
from services.dev_cluster.rbac import Action, User
from services.dev_cluster.writes import Options


class Rest:
    """Answers authorized resource requests."""

    def __init__(self, cluster: Cluster, watching: watches.Watches) -> None:
        self._cluster = cluster
        self._store = cluster.store
        self._watching = watching
        self._subresources = subresources.Subresources(cluster, watching)

    async def handle(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        """Answers one request."""
        if target.kind in kinds.REVIEWS:
            body = await bodies.read_typed(request, target.kind)
            return bodies.respond(self._cluster.reviews.answer(target.kind, target.namespace, body, user), 201)
        if target.kind in kinds.METRICS:
            matches = selectors.parse(kinds.POD, request.query.get("labelSelector", ""), "")
            return bodies.respond(metrics.answer(self._store, target.kind, target.namespace, target.name, matches))
        options = _options(request, user)
        if target.subresource:
            return await self._subresources.handle(request, target, options)
        if target.verb == "create":
            body = await bodies.read_object(request)
            made = self._cluster.writer.create(target.kind, target.namespace, body, options)
            return bodies.respond(self._shaped(request, target.kind, made), 201, options.warnings)
        if target.verb in ("list", "watch"):
            return await self._list_or_watch(request, target)
        if target.verb == "deletecollection":
            return await self._delete_collection(request, target, options)
        if target.verb == "patch":
            changed, status = await self._patch(request, target, options)
            return bodies.respond(self._shaped(request, target.kind, changed), status, options.warnings)
        if target.verb == "get":
            return bodies.respond(self._shaped(request, target.kind, self._read(target)))
        # The body is read before the object, so that nothing can change between reading and writing the object.
        if target.verb == "update":
            body = await bodies.read_object(request)
            changed = self._cluster.writer.update(target.kind, self._read(target), body, options)
            return bodies.respond(self._shaped(request, target.kind, changed), 200, options.warnings)
        deletion = await _deletion(request)
        return bodies.respond(self._delete(target.kind, self._read(target), deletion, options))

    def _read(self, target: Target) -> Object:
        namespace = target.namespace if target.kind.namespaced else ""
        return self._store.read(target.kind, namespace, target.name)

    def _shaped(self, request: web.Request, kind: Kind, obj: Object) -> Object:
        form = bodies.wants(request)
        if form == "Table":
            meta = {key: value for key, value in obj["metadata"].items() if key == "resourceVersion"}
            include = request.query.get("includeObject", "Metadata")
            return tables.table(kind, [obj], meta, self._cluster.clock.now(), include)
        if form == "PartialObjectMetadata":
            return {"kind": form, "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
        return obj

    async def _list_or_watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        query = request.query
        fields = query.get("fieldSelector", "")
        if target.verb == "watch" and target.name and not fields:
            fields = f"metadata.name={target.name}"
        matcher = selectors.parse(target.kind, query.get("labelSelector", ""), fields)
        namespace = target.namespace if target.kind.namespaced else ""
        if target.verb == "watch":
            return await self._watching.serve(request, target.kind, namespace, matcher)
        found = [obj for obj in self._store.objects(target.kind, namespace) if matcher(obj)]
        page, meta = _page(found, query.get("limit", ""), query.get("continue", ""), self._store.version)
        form = bodies.wants(request)
        if form == "Table":
            include = query.get("includeObject", "Metadata")
            return bodies.respond(tables.table(target.kind, page, meta, self._cluster.clock.now(), include))
        kind, version = f"{target.kind.name}List", target.kind.api_version
        if form == "PartialObjectMetadata":
            kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
            items = [{"metadata": obj["metadata"], "kind": form, "apiVersion": version} for obj in page]
        else:
            # As kube-apiserver does: the kind of a list's items is said once, by the list.
            items = [{key: obj[key] for key in obj if key not in ("kind", "apiVersion")} for obj in page]
        return bodies.respond({"kind": kind, "apiVersion": version, "metadata": meta, "items": items})

    async def _patch(self, request: web.Request, target: Target, options: Options) -> tuple[Object, int]:
        how, wanted = await bodies.read_patch(request)
        namespace = target.namespace if target.kind.namespaced else ""
        if how == "apply":
            return self._apply(request, target, namespace, wanted, options)
        old = self._store.read(target.kind, namespace, target.name)
        if how == "strategic" and target.kind.custom:
            raise errors.unsupported_media("application/strategic-merge-patch+json", "application/merge-patch+json")
        new = patch.patched(how, old, wanted)
        return self._cluster.writer.update(target.kind, old, new, options), 200

    def _apply(
        self, request: web.Request, target: Target, namespace: str, wanted: Any, options: Options
    ) -> tuple[Object, int]:
        if "fieldManager" not in request.query:
            raise errors.bad_request("fieldManager is required for apply patch")
        if not isinstance(wanted, dict):
            raise errors.bad_request("the body of the request is not an object")
        old = self._store.get(target.kind, namespace, target.name)
        if old is None:
            action = Action("create", target.kind.group, target.kind.plural, "", target.namespace, target.name)
            self._cluster.authenticator.require(options.user, action)
        meta = wanted.setdefault("metadata", {})
        meta.setdefault("name", target.name)
        if meta["name"] != target.name:
            raise errors.bad_request(f"name in URL does not match name in the object: {meta['name']!r}")
        result = self._cluster.writer.apply(target.kind, namespace, old, wanted, options)
        return result, 201 if old is None else 200

    async def _delete_collection(self, request: web.Request, target: Target, options: Options) -> web.Response:
        query = request.query
        matcher = selectors.parse(target.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        deletion = await _deletion(request)
        found = [obj for obj in self._store.objects(target.kind, target.namespace) if matcher(obj)]
        for obj in found:
            self._delete(target.kind, obj, deletion, options)
        meta = {"resourceVersion": str(self._store.version)}
        kind = f"{target.kind.name}List"
        return bodies.respond({"kind": kind, "apiVersion": target.kind.api_version, "metadata": meta, "items": found})

    def _delete(self, kind: Kind, old: Object, deletion: Object, options: Options) -> Object:
        if kind is kinds.NAMESPACE and old["metadata"]["name"] in ("default", "kube-system"):
            raise errors.forbidden(kind, old["metadata"]["name"], "this namespace may not be deleted")
        return self._cluster.writer.delete(kind, old, deletion, dry_run=options.dry_run or bool(deletion.get("dryRun")))


def _page(found: list[Object], limit: str, token: str, version: int) -> tuple[list[Object], Object]:
    meta: Object = {"resourceVersion": str(version)}
    try:
        size = int(limit or 0)
        after = json.loads(base64.urlsafe_b64decode(token)) if token else None
        if after is not None:
            # By place, not by count: objects that came or went meanwhile neither repeat nor hide others.
            found = [obj for obj in found if [obj["metadata"].get("namespace", ""), obj["metadata"]["name"]] > after]
    except (ValueError, TypeError) as error:
        raise errors.bad_request("limit or continue token cannot be read") from error
    if size <= 0 or len(found) <= size:
        return found, meta
    last = found[size - 1]["metadata"]
    place = json.dumps([last.get("namespace", ""), last["name"]]).encode()
    meta["continue"] = base64.urlsafe_b64encode(place).decode()
    meta["remainingItemCount"] = len(found) - size
    return found[:size], meta


def _options(request: web.Request, user: User) -> Options:
    query = request.query
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    dry_run = query.getall("dryRun", [])
    if dry_run not in ([], ["All"]):
        raise errors.bad_request(f"invalid dryRun value: {dry_run}")
    validation = query.get("fieldValidation", "Warn") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise errors.bad_request(f"invalid fieldValidation value: {validation!r}")
    force = query.get("force") in ("true", "1")
    return Options(user, query.get("fieldManager") or agent, bool(dry_run), validation, force)


async def _deletion(request: web.Request) -> Object:
    body = await bodies.read_object(request)
    if not isinstance(body, dict):
        raise errors.bad_request("DeleteOptions is not an object")
    deletion = dict(body)
    if "propagationPolicy" in request.query:
        deletion["propagationPolicy"] = request.query["propagationPolicy"]
    seconds = request.query.get("gracePeriodSeconds", "")
    if seconds:
        deletion["gracePeriodSeconds"] = int(seconds) if seconds.isdecimal() else seconds
    return schema.decode(kinds.DELETE_OPTIONS, deletion)[0]
