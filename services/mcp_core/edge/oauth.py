"""The edge as an OAuth protected resource: what it publishes (RFC 9728), and how it challenges (RFC 6750, RFC 9728).

Clients learn from here where to get a token, for whom (the resource, RFC 8707), and with which scopes. All of that is
what authn trusts now: there is no second list to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from services.common.clock import Clock
from services.common.deadline import Deadline
from services.common.errors import DomainError, Unauthenticated, Unavailable
from services.common.log import get_logger
from services.mcp_core.edge.credentials import NoCredential
from services.mcp_core.edge.wire import Headers, Response, json_response
from services.mcp_core.errors import ActionDenied
from services.mcp_core.model import AuthorizationServer

METADATA_PATH = "/.well-known/oauth-protected-resource"

FRESH_SECONDS = 5.0
"""How long authn's answer is used again: metadata is open to anybody."""

RETRY_SECONDS = 1.0
"""How long authn counts as away after it gave none: a flood of 401s does not wait for it one by one."""

Ask = Callable[[Deadline], Awaitable[Sequence[AuthorizationServer]]]

log = get_logger("oauth")


class ProtectedResource:
    """The resource is the MCP URL; REST belongs to it. ``base_url``: as clients see us, without path."""

    def __init__(self, base_url: str, ask: Ask, clock: Clock) -> None:
        self.resource = base_url + "/mcp"
        self.metadata_url = f"{base_url}{METADATA_PATH}/mcp"
        self._ask = ask
        self._clock = clock
        self._servers: Sequence[AuthorizationServer] = ()
        self._away = ""
        self._ask_at = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def stale(self) -> bool:
        """Whether authn is asked for the next answer."""
        return self._clock.monotonic() >= self._ask_at

    async def metadata(self, deadline: Deadline) -> Response:
        """RFC 9728, section 2. Names no authorization server while authn trusts none.

        Raises:
            Unavailable: authn is away.
        """
        await self._refresh(deadline)
        document: dict[str, object] = {
            "resource": self.resource,
            "resource_name": "kubegate",
            "bearer_methods_supported": ["header"],
        }
        if self._servers:
            document["authorization_servers"] = [server.issuer for server in self._servers]
        scopes = sorted({scope for server in self._servers for scope in server.scopes})
        if scopes:
            document["scopes_supported"] = scopes
        return json_response(document)

    async def unauthenticated(self, error: Unauthenticated, deadline: Deadline) -> Headers:
        """The challenges of a 401. ``error`` is named only where a credential was sent and refused (RFC 6750, 3.1)."""
        with contextlib.suppress(DomainError):
            # What was last known will do: nothing rests on it but a client's first question.
            await self._refresh(deadline)
        values = {"realm": "kubegate", "resource_metadata": self.metadata_url}
        initial = sorted({scope for server in self._servers for scope in server.initial_scopes})
        if initial:
            values["scope"] = " ".join(initial)
        if not isinstance(error, NoCredential):
            values["error"] = "invalid_token"
        return [_challenge("Bearer", values), _challenge("ApiKey", {"realm": "kubegate"})]

    def denied(self, error: ActionDenied) -> Headers:
        """The challenge of a 403: only where there are scopes that would help, and then all of them."""
        if not error.scopes:
            return []
        values = {
            "realm": "kubegate",
            "error": "insufficient_scope",
            "scope": " ".join(error.scopes),
            "resource_metadata": self.metadata_url,
        }
        return [_challenge("Bearer", values)]

    async def _refresh(self, deadline: Deadline) -> None:
        async with self._lock:
            if self.stale:
                await self._renew(deadline)
        if self._away:
            raise Unavailable(self._away)

    async def _renew(self, deadline: Deadline) -> None:
        try:
            self._servers = tuple(await self._ask(deadline))
        except DomainError as away:
            log.warning("authorization servers not known anew", reason=away.public_message)
            self._away, lasts = away.public_message, RETRY_SECONDS
        else:
            self._away, lasts = "", FRESH_SECONDS
        self._ask_at = self._clock.monotonic() + lasts


def _challenge(scheme: str, values: dict[str, str]) -> tuple[bytes, bytes]:
    # Scopes have no quotes (authn sees to it), our URLs neither.
    parameters = ", ".join(f'{name}="{value}"' for name, value in values.items())
    return b"www-authenticate", f"{scheme} {parameters}".encode()
