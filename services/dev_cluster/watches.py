"""Watches: a stream of changes from a version on, narrowed by selectors, ended by a deadline or by shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import time

from aiohttp import web

from services.dev_cluster import bodies, errors, tables
from services.dev_cluster.clock import Clock
from services.dev_cluster.kinds import Kind, Object
from services.dev_cluster.selectors import Matcher
from services.dev_cluster.store import Change, Store

BOOKMARK_EVERY = 60.0
LONGEST = 1_800.0
# A client that reads slower than this much of the changes is cut off and has to list again.
BACKLOG = 10_000


class Watches:
    """Serves watch requests until it is closed."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Ends every stream."""
        self._closing.set()

    async def sleep(self, seconds: float) -> bool:
        """Waits; False when the server is about to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return not self._closing.is_set()

    async def serve(self, request: web.Request, kind: Kind, namespace: str, matcher: Matcher) -> web.StreamResponse:
        """Streams the changes of a kind that the matcher selects, or selected before the change."""
        query = request.query
        queue: asyncio.Queue[Change | None] = asyncio.Queue()

        def offer(change: Change) -> None:
            if queue.qsize() >= BACKLOG:
                queue.put_nowait(None)
            elif change.kind is kind and (not namespace or change.obj["metadata"].get("namespace") == namespace):
                queue.put_nowait(change)

        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        initial = query.get("sendInitialEvents") in ("true", "1")
        shape = _Shape(request, kind, self._clock)
        start, backlog = self._start(query.get("resourceVersion", ""), initial=initial)
        unsubscribe = self._store.subscribe(offer)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        try:
            for change in backlog:
                offer(change)
            await response.prepare(request)
            if start is None:
                for obj in self._store.objects(kind, namespace):
                    if matcher(obj):
                        await response.write(shape.line("ADDED", obj))
                start = self._store.version
            if initial and bookmarks:
                await response.write(shape.bookmark(start, end_of_initial=True))
            await self._stream(response, queue, matcher, shape, _timeout(query.get("timeoutSeconds", "")), bookmarks)
            await response.write_eof()
            return response
        except ConnectionResetError:
            # The client has gone, which is how most watches end.
            return response
        finally:
            unsubscribe()

    def _start(self, version: str, *, initial: bool) -> tuple[int | None, list[Change]]:
        """Where to start: None for the present state first, else the version and what has happened since."""
        if version in ("", "0") or initial:
            return None, []
        if not version.isdecimal():
            raise errors.bad_request(f"invalid resource version: {version!r}")
        return int(version), self._store.since(int(version))

    async def _stream(
        self,
        response: web.StreamResponse,
        queue: asyncio.Queue[Change | None],
        matcher: Matcher,
        shape: _Shape,
        timeout: float,
        bookmarks: bool,
    ) -> None:
        end = time.monotonic() + timeout
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while (left := end - time.monotonic()) > 0 and not closing.done():
                getting = asyncio.ensure_future(queue.get())
                done, _ = await asyncio.wait(
                    {getting, closing}, timeout=min(left, BOOKMARK_EVERY), return_when=asyncio.FIRST_COMPLETED
                )
                if getting not in done:
                    getting.cancel()
                    if bookmarks and not closing.done():
                        await response.write(shape.bookmark(self._store.version))
                    continue
                change = getting.result()
                if change is None:
                    gone = errors.expired("the watch could not keep up; list again").status()
                    await response.write(bodies.dump({"type": "ERROR", "object": gone}) + b"\n")
                    return
                type_ = _seen_as(change, matcher)
                if type_:
                    await response.write(shape.line(type_, change.obj))
        finally:
            closing.cancel()


def _seen_as(change: Change, matcher: Matcher) -> str:
    """What a change is to a watcher whose selection an object may enter or leave."""
    now = change.type != "DELETED" and matcher(change.obj)
    before = change.old is not None and matcher(change.old)
    if now:
        return "MODIFIED" if before else "ADDED"
    return "DELETED" if before else ""


def _timeout(text: str) -> float:
    if text and not text.isdecimal():
        raise errors.bad_request(f"invalid timeoutSeconds: {text!r}")
    return min(float(text or LONGEST), LONGEST)


class _Shape:
    """How one watcher wants objects: whole, as rows of a table, or their metadata only."""

    def __init__(self, request: web.Request, kind: Kind, clock: Clock) -> None:
        self._form = bodies.wants(request)
        self._include = request.query.get("includeObject", "Metadata")
        self._kind = kind
        self._clock = clock
        self._header = True

    def line(self, type_: str, obj: Object) -> bytes:
        """One event."""
        shown = obj
        if self._form == "Table":
            meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            shown = tables.table(self._kind, [obj], meta, self._clock.now(), self._include, header=self._header)
            self._header = False
        elif self._form == "PartialObjectMetadata":
            shown = {"kind": self._form, "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
        return bodies.dump({"type": type_, "object": shown}) + b"\n"

    def bookmark(self, version: int, *, end_of_initial: bool = False) -> bytes:
        """A progress mark without an object."""
        meta: Object = {"resourceVersion": str(version)}
        if end_of_initial:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        if self._form == "Table":
            mark = tables.table(self._kind, [], meta, self._clock.now(), self._include, header=self._header)
        else:
            mark = {"kind": self._kind.name, "apiVersion": self._kind.api_version, "metadata": meta}
        return bodies.dump({"type": "BOOKMARK", "object": mark}) + b"\n"
