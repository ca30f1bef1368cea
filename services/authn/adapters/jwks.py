"""Public keys of trusted issuers (RFC 7517), found by OpenID Connect discovery, cached, and fetched again for an
unknown key id, not more often than every ``RETRY`` seconds.

Known keys are fetched again beside the proofs that use them. A proof waits only where its key is not known, and
where nobody has asked since the keys grew old: an issuer that is away holds nobody up whose keys are good, and a key
that it withdrew is refused after ``TTL``.

The algorithm is fixed per key when the key is read: a token's header can only agree with it. Symmetric keys in
a key set are ignored.
"""

import asyncio
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.authn.model import TrustedIssuer
from services.common.clock import Clock
from services.common.errors import Unavailable
from services.common.log import get_logger

TTL = 300.0
"""Seconds after which keys are not used unless they were asked for again."""

AHEAD = 60.0
"""Seconds before that in which a proof has them fetched and does not wait."""

STALE = 3600.0
"""Seconds after which keys that cannot be fetched again are used no more."""

RETRY = 10.0
"""Seconds between two fetches from one issuer at least."""

MAX_BYTES = 512 * 1024
TIMEOUT = 5.0
"""Bytes and seconds of one document at most."""

MIN_RSA_BITS = 2048

log = get_logger("jwks")


class FetchFailed(Exception):
    """The keys cannot be had; the message is for the log."""


class Documents(Protocol):
    """JSON documents over HTTPS."""

    async def get(self, url: str, ca_pem: str) -> Any:
        """Raises ``FetchFailed``."""
        ...


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key and the only algorithm it is used with."""

    key: Any
    algorithm: str


@dataclass(slots=True)
class _State:
    keys: Mapping[str, VerifyingKey] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


_Settings = tuple[str, str, tuple[str, ...]]


class KeySets:
    """The key sets of all issuers."""

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._states: dict[str, tuple[_Settings, _State]] = {}
        self._refreshing: set[asyncio.Task[None]] = set()

    async def find(self, issuer: TrustedIssuer, kid: str) -> VerifyingKey | None:
        """The key of that id; without an id, the only key that there is.

        Raises:
            Unavailable: the issuer's keys cannot be had.
        """
        # Where its keys come from and which are taken; with other settings, its keys are others.
        settings = issuer.jwks_uri, issuer.ca_pem, issuer.algorithms
        known = self._states.get(issuer.issuer)
        if known is None or known[0] != settings:
            known = self._states[issuer.issuer] = settings, _State()
        state = known[1]
        now = self._clock.monotonic()
        age = now - state.fetched_at
        not_asked_since = state.tried_at <= state.fetched_at
        if age >= STALE or (age >= TTL and not_asked_since) or _pick(state.keys, kid) is None:
            await self._refresh(issuer, state)
        elif age >= TTL - AHEAD and now - state.tried_at >= RETRY and not state.lock.locked():
            task = asyncio.create_task(self._refresh(issuer, state))
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)
        if self._clock.monotonic() - state.fetched_at >= STALE:
            raise Unavailable("The keys of the token's issuer cannot be had; try again shortly.", retry_after=RETRY)
        return _pick(state.keys, kid)

    async def _refresh(self, issuer: TrustedIssuer, state: _State) -> None:
        async with state.lock:
            now = self._clock.monotonic()
            if now - state.tried_at < RETRY:
                return
            state.tried_at = now
            try:
                state.keys = await self._fetch(issuer)
                state.fetched_at = now
            except FetchFailed as error:
                # Whoever waited for this try does not make one more of its own.
                state.tried_at = self._clock.monotonic()
                log.warning("keys of an issuer not fetched", issuer=issuer.issuer, reason=str(error))

    async def _fetch(self, issuer: TrustedIssuer) -> Mapping[str, VerifyingKey]:
        uri = issuer.jwks_uri
        if not uri:
            # OpenID Connect Discovery 1.0, section 4.
            found = await self._documents.get(
                issuer.issuer.rstrip("/") + "/.well-known/openid-configuration", issuer.ca_pem
            )
            if not isinstance(found, dict) or found.get("issuer") != issuer.issuer:
                raise FetchFailed("the discovery document names another issuer")
            named = found.get("jwks_uri")
            if not isinstance(named, str) or not named.startswith("https://"):
                raise FetchFailed("the discovery document names no jwks_uri over https")
            uri = named
        document = await self._documents.get(uri, issuer.ca_pem)
        entries = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise FetchFailed("the key set is no JWK set")
        keys: dict[str, VerifyingKey] = {}
        for index, entry in enumerate(entries[:100]):
            key = _usable(entry, issuer.algorithms)
            if key is not None:
                kid = entry.get("kid")
                keys[kid if isinstance(kid, str) and kid else f"\0{index}"] = key
        return keys


def _pick(keys: Mapping[str, VerifyingKey], kid: str) -> VerifyingKey | None:
    if kid:
        return keys.get(kid)
    return next(iter(keys.values())) if len(keys) == 1 else None


def _usable(entry: Any, allowed: tuple[str, ...]) -> VerifyingKey | None:
    """A key of a set, if it is for signatures, asymmetric, and of an algorithm that the issuer may use."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    by_kind = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
    kind = entry.get("kty")
    algorithm = by_kind.get((kind, None if kind == "RSA" else entry.get("crv"))) if isinstance(kind, str) else None
    if algorithm is None or algorithm not in allowed or entry.get("alg", algorithm) != algorithm:
        return None
    public = {name: value for name, value in entry.items() if name in ("kty", "crv", "x", "y", "n", "e")}
    try:
        key = jwt.PyJWK.from_dict(public, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    return VerifyingKey(key, algorithm)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


THREADS = 16
"""Documents that are fetched at once: of one issuer one, so that those that are away do not hold up the others."""


class HttpsDocuments:
    """Fetches in a small pool of threads: no proxies, no redirects, bounded in bytes and seconds."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="jwks")

    async def get(self, url: str, ca_pem: str) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _get, url, ca_pem)

    def close(self) -> None:
        """Ends the threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _get(url: str, ca_pem: str) -> Any:
    if not url.startswith("https://"):
        raise FetchFailed("not https")
    give_up = time.monotonic() + TIMEOUT
    try:
        context = ssl.create_default_context(cadata=ca_pem or None)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirects()
        )
        content = b""
        with opener.open(url, timeout=TIMEOUT) as response:
            while chunk := response.read1(65_536):
                content += chunk
                if len(content) > MAX_BYTES or time.monotonic() > give_up:
                    raise FetchFailed("the document is too long or too slow")
        return json.loads(content)
    except (OSError, ValueError, RecursionError, urllib.error.URLError) as error:
        raise FetchFailed(f"{type(error).__name__} at {url}") from error
