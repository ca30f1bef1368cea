"""The limit per source before authentication (R25).

Each source address has a token bucket that is charged for requests without a credential and for those with one
that it has not shown successfully before; the charge is given back when authn accepts it. So a flood of guesses
stops at the edge, while a busy client, or one behind the same address as the flood, goes on. A known credential
is only spared the charge: authn still proves every request.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict

from services.common.clock import Clock
from services.common.errors import ResourceExhausted

MAX_SOURCES = 10_000
MAX_KNOWN = 10_000

PASSWORD_COST = 5.0
"""A password costs authn a memory-hard hash, so it is charged more."""


class Throttled(ResourceExhausted):
    """The source has to wait."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            "Too many unauthenticated requests from this address; try again later.", retry_after=retry_after
        )


class SourceLimiter:
    """In memory, bounded; the source that was idle longest is forgotten first."""

    def __init__(self, burst: int, per_second: float, clock: Clock) -> None:
        self._burst = float(burst)
        self._rate = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._key = secrets.token_bytes(32)

    @property
    def sources(self) -> int:
        """How many it knows."""
        return len(self._buckets)

    def admit(self, address: str, credential: bytes = b"", cost: float = 1.0) -> None:
        """Charges a request unless its credential is known from this source.

        Raises:
            Throttled: the source has to wait ``retry_after`` seconds.
        """
        if credential and self._digest(address, credential) in self._known:
            return
        tokens = self._tokens(address)
        if tokens < cost:
            raise Throttled((cost - tokens) / self._rate)
        self._put(address, tokens - cost)

    def refund(self, address: str, cost: float = 1.0) -> None:
        """Gives back the charge of a request that turned out to be authenticated."""
        self._put(address, min(self._burst, self._tokens(address) + cost))

    def accepted(self, address: str, credential: bytes) -> None:
        """authn has proven this credential from this source."""
        digest = self._digest(address, credential)
        if digest not in self._known:
            self.refund(address)
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def rejected(self, address: str, credential: bytes) -> None:
        """authn has refused this credential; it is charged again from now on."""
        self._known.pop(self._digest(address, credential), None)

    def _tokens(self, address: str) -> float:
        tokens, at = self._buckets.get(source_of(address), (self._burst, 0.0))
        return min(self._burst, tokens + (self._clock.monotonic() - at) * self._rate)

    def _put(self, address: str, tokens: float) -> None:
        source = source_of(address)
        self._buckets[source] = (tokens, self._clock.monotonic())
        self._buckets.move_to_end(source)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)

    def _digest(self, address: str, credential: bytes) -> bytes:
        return hmac.digest(self._key, address.encode() + b" " + credential, hashlib.sha256)


def source_of(address: str) -> str:
    """The address, or its /64 for IPv6: a single host owns all of one."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
