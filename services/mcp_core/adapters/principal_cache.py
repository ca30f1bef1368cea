"""What authn has proven, remembered for as long as it certainly still holds (R12).

An entry is found by an HMAC of the whole credential, the client certificate included, under a key of this process:
memory holds no credential, and a token that is bound to a certificate is found only together with it.
It is used only while the lease on authn's revocations is fresh, and dies with its credential, with the useful
life of its principal token, on an end that the lease reports, and with the lease itself.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from kubegate.authn.v1 import authn_pb2
from services.common.clock import Clock
from services.common.principal_token import LIFETIME, key_id
from services.common.revocations import names, signing_key_name
from services.mcp_core.model import Credential, Principal

SIZE = 4096
"""Entries at most; the one unused for longest makes room."""


class Freshness(Protocol):
    """The lease."""

    revision: int

    def fresh(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Proven:
    """authn's answer about a credential."""

    principal: Principal
    token: str = field(repr=False)
    event_id: str
    expires_at: datetime | None = None
    obtainable: tuple[tuple[str, str], ...] = ()
    ends_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    proven: Proven
    token_ends: float
    revision: int
    names: frozenset[str]


class PrincipalCache:
    """Entries by credential. ``lease`` is set before the first use; its answers go to ``apply``."""

    lease: Freshness

    def __init__(self, clock: Clock, size: int = SIZE) -> None:
        self._clock = clock
        self._size = size
        self._key = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, seconds: float) -> Proven | None:
        """What is known of a credential, by its ``key``, and certainly still holds, if its token lives for so many
        seconds more: the request has to end before it."""
        if not self.lease.fresh():
            self._entries.clear()
            return None
        entry = self._entries.get(key)
        if entry is None:
            return None
        ends = entry.proven.expires_at
        now = self._clock.monotonic()
        if now + seconds >= entry.token_ends:
            if now >= entry.token_ends:
                del self._entries[key]
            return None
        if ends is not None and ends <= self._clock.now():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry.proven

    def keep(self, key: bytes, proven: Proven, *, asked_at: float, revision: int) -> None:
        """Remembers an answer. ``asked_at``: monotonic time before the question; ``revision``: that authn knew.

        An answer that is older than what the lease has already reported is not kept: it may be of a credential
        that has ended since.
        """
        if not self.lease.fresh() or revision < self.lease.revision:
            return
        who = proven.principal
        ends_with = (*proven.ends_with, signing_key_name(key_id(proven.token)))
        every = frozenset(names(who.issuer, who.subject, who.credential_id, ends_with))
        self._entries[key] = _Entry(proven, asked_at + LIFETIME, revision, every)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def apply(self, response: authn_pb2.WatchRevocationsResponse) -> None:
        """Drops what an answer of the lease ends; everything where the lease had run out before it came."""
        if response.reset or not self.lease.fresh():
            self._entries.clear()
        if not response.ended or not self._entries:
            return
        # An end without a revision of its own lies at the answer's at the latest.
        revisions = list(response.ended_revisions)
        revisions += [response.answer.revision] * (len(response.ended) - len(revisions))
        ended: dict[str, int] = {}
        for name, revision in zip(response.ended, revisions, strict=False):
            ended[name] = max(ended.get(name, 0), revision)
        dead = [
            key
            for key, entry in self._entries.items()
            if any(ended.get(name, 0) > entry.revision for name in entry.names)
        ]
        for key in dead:
            del self._entries[key]

    def vouches(self, key: bytes, principal: Principal) -> bool:
        """Whether what was proven by the credential of this key still certainly holds, by that proof or a newer one."""
        entry = self._entries.get(key) if self.lease.fresh() else None
        if entry is None or entry.proven.principal != principal or self._clock.monotonic() >= entry.token_ends:
            return False
        return entry.proven.expires_at is None or entry.proven.expires_at > self._clock.now()

    def key(self, credential: Credential) -> bytes:
        """What a credential is found by: of no use outside of this process."""
        return hmac.digest(self._key, credential.whole, "sha256")
