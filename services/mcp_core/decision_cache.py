"""Decisions that authz has made and recorded, used again while its lease vouches for them (R11, R12).

- The key is the whole principal, the whole action and the revision under which authz decided. Only allowing
  decisions are kept, and only those that authz says may be, until then.
- Nothing is read without a fresh lease on the policy, and a lease that is not fresh empties the cache.
- An answer that is older than the newest revision seen is used for its own call and not kept: it may have been
  under way while the policy changed.
- What ListAllowed answered, from which lists are made, is kept on the same terms.

A decision from here is recorded by the core as cached, with the event of the decision that it repeats (R18).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from services.common.clock import Clock
from services.mcp_core.model import Action, Allowed, Caller, Decision, Scopes, Suggestion
from services.mcp_core.ports import Authorizer

MAX_ENTRIES = 10_000

MAX_LISTS = 500
"""Answers to ListAllowed that are kept; each is large."""


class PolicyLease(Protocol):
    """The lease on authz's policy. ``revision`` is the newest seen."""

    revision: int

    def fresh(self) -> bool:
        """Whether what was cached under ``revision`` may be used now."""
        ...


Key = tuple[bytes, object]
Kept = TypeVar("Kept", Allowed, Scopes)


@dataclass(slots=True)
class Counts:
    """How often the cache answered, how often authz was asked, and how often everything was dropped."""

    hits: int = 0
    misses: int = 0
    drops: int = 0


class CachedAuthorizer:
    """The Authorizer port before another Authorizer."""

    def __init__(self, authorizer: Authorizer, clock: Clock) -> None:
        self._authorizer = authorizer
        self._clock = clock
        self._lease: PolicyLease | None = None
        self._kept: dict[Key, Allowed] = {}
        self._listed: dict[Key, Scopes] = {}
        self._newest = 0
        self.counts = Counts()

    def use(self, lease: PolicyLease) -> None:
        """The lease without which nothing is kept."""
        self._lease = lease

    def saw(self, revision: int) -> None:
        """A revision of the policy is known to exist: what is older goes."""
        if revision != self._newest:
            self._newest = max(self._newest, revision)
            self._drop()

    async def check(self, caller: Caller, action: Action, *, anew: bool = False) -> Decision:
        """A decision of authz: one that was kept, or a new one. Raises as authz's."""
        key = self._key(caller, action)
        if key is not None and not anew:
            kept = self._read(self._kept, key)
            if kept is not None:
                self.counts.hits += 1
                return kept
        self.counts.misses += 1
        decision = await self._authorizer.check(caller, action)
        if key is not None and isinstance(decision, Allowed):
            self._keep(self._kept, MAX_ENTRIES, key, replace(decision, cached=True))
        return decision

    async def list_allowed(self, caller: Caller, actions: Sequence[Action]) -> Scopes:
        """Scopes that were kept under the same terms, or new ones. Raises as authz's."""
        key = self._key(caller, tuple(actions))
        if key is not None:
            kept = self._read(self._listed, key)
            if kept is not None:
                self.counts.hits += 1
                return kept
        self.counts.misses += 1
        scopes = await self._authorizer.list_allowed(caller, actions)
        if key is not None:
            self._keep(self._listed, MAX_LISTS, key, scopes)
        return scopes

    async def suggest_roles(self, caller: Caller, actions: Sequence[Action], roles: Sequence[str]) -> list[Suggestion]:
        """Always asked anew."""
        return await self._authorizer.suggest_roles(caller, actions, roles)

    def _key(self, caller: Caller, asked: Action | tuple[Action, ...]) -> Key | None:
        # Without a digest of the whole principal there is nothing to tell two principals apart by.
        return (caller.principal.digest, asked) if caller.principal.digest else None

    def _read(self, table: dict[Key, Kept], key: Key) -> Kept | None:
        if self._lease is None or not self._lease.fresh():
            self._drop()
            return None
        kept = table.get(key)
        if kept is None or kept.lease_revision != self._lease.revision:
            return None
        if self._clock.now().timestamp() >= kept.cacheable_until:
            del table[key]
            return None
        return kept

    def _keep(self, table: dict[Key, Kept], most: int, key: Key, answer: Kept) -> None:
        if answer.lease_revision > self._newest:
            self.saw(answer.lease_revision)
        late = answer.lease_revision < self._newest
        if late or not answer.lease_revision or answer.cacheable_until <= self._clock.now().timestamp():
            return
        if self._lease is None or not self._lease.fresh():
            return
        if len(table) >= most:
            del table[next(iter(table))]
        table[key] = answer

    def _drop(self) -> None:
        if self._kept or self._listed:
            self._kept.clear()
            self._listed.clear()
            self.counts.drops += 1
