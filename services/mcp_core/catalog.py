"""What kinds the cluster has, by its discovery: asked as the core's own account, remembered for a short while."""

from __future__ import annotations

import asyncio

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.mcp_core.ports import Cluster, Kind

FRESH_SECONDS = 60.0
"""How long what was discovered is used without asking again."""

PAUSE_SECONDS = 5.0
"""Least time between two discoveries, however many callers name kinds that do not exist."""


RETRY_SECONDS = 1.0
"""How long a failed discovery is the answer to whoever asks next."""


class Catalog:
    """The kinds of one cluster. Safe for many requests of one event loop."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._asking = asyncio.Lock()
        self._asked = self._failed = float("-inf")
        self._failure = ""
        self._by_name: dict[str, list[Kind]] = {}

    async def find(self, text: str, deadline: Deadline) -> Kind:
        """The kind that a caller names as kubectl takes it: plural, singular, short or Kind, with `.group` or without.

        Where groups share a name, Kubernetes' own come first, so that no custom kind can stand in for one of them.

        Raises:
            InvalidArgument: there is none.
            DomainError: the cluster cannot be asked.
        """
        await self._refresh(deadline, FRESH_SECONDS)
        found = self._match(text)
        if found is None:
            await self._refresh(deadline, PAUSE_SECONDS)
            found = self._match(text)
        if found is None:
            raise InvalidArgument(
                f"Argument `kind`: the cluster has no kind {text[:64]!r}. Write it as kubectl does, such as pods, "
                "deployments.apps or, for a custom one, plural.group."
            )
        return found

    def known(self) -> list[Kind]:
        """The kinds that were discovered so far."""
        return list({kind.resource: kind for kinds in self._by_name.values() for kind in kinds}.values())

    def _match(self, text: str) -> Kind | None:
        name, _, group = text.lower().partition(".")
        kinds = self._by_name.get(name, ())
        return next((kind for kind in kinds if not group or kind.resource.group == group), None)

    async def _refresh(self, deadline: Deadline, seconds: float) -> None:
        try:
            async with asyncio.timeout(deadline.remaining()):
                await self._asking.acquire()
        except TimeoutError:
            raise DeadlineExceeded("The cluster did not say in time what kinds it has.") from None
        try:
            now = self._clock.monotonic()
            if now - self._asked < seconds:
                return
            if now - self._failed < RETRY_SECONDS:
                raise Unavailable(self._failure)
            try:
                kinds = await self._cluster.session(None, deadline.child()).kinds()
            except (Unavailable, DeadlineExceeded) as error:
                # Whoever waits for the same answer hears it at once, and not one time-out after the other.
                self._failure, self._failed = error.public_message, self._clock.monotonic()
                raise
            self._asked = self._clock.monotonic()
            by_name: dict[str, list[Kind]] = {}
            for kind in sorted(kinds, key=_rank):
                names = (kind.resource.plural, kind.name.lower(), kind.singular.lower(), *map(str.lower, kind.short))
                for name in dict.fromkeys(names):
                    by_name.setdefault(name, []).append(kind)
            self._by_name = by_name
        finally:
            self._asking.release()


def _rank(kind: Kind) -> tuple[int, bool]:
    group = kind.resource.group
    if not group:
        return 0, False
    if "." not in group:
        return 1, False
    # metrics.k8s.io has pods and nodes of its own; they are asked for by their full name.
    return (2 if group.endswith(".k8s.io") else 3), group == "metrics.k8s.io"
