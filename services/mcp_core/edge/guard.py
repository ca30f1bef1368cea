"""Host and Origin allow-lists, against DNS rebinding and foreign web pages. Both are checked, always."""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.common.errors import InvalidArgument, PermissionDenied
from services.mcp_core.edge.wire import Request

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:/?#@\[\]\s]+)(?::\d{1,5})?")


class Misdirected(InvalidArgument):
    """The Host is not one of ours: HTTP 421 (RFC 9110, section 15.5.20)."""


class ForeignOrigin(PermissionDenied):
    """The Origin is not allowed: HTTP 403."""


class HeadersTooLarge(InvalidArgument):
    """The headers are longer than allowed: HTTP 431. h11 bounds only those that arrive in pieces."""


MAX_HEADER_BYTES = 32 * 1024


class Guard:
    """``hosts``: names allowed with any port. ``origins``: allowed beside https on an allowed host."""

    def __init__(self, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def check(self, request: Request) -> None:
        """Raises:
        HeadersTooLarge, Misdirected, ForeignOrigin: the request is over the bound, not for us, or comes from
            a page that may not ask us.
        """
        if sum(len(name) + len(value) for name, value in request.headers) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"The headers are longer than {MAX_HEADER_BYTES} bytes.")
        hosts = request.all(b"host")
        if len(hosts) != 1 or not self._ours(hosts[0].decode("latin-1").lower()):
            raise Misdirected("This server does not answer for the host of this request; see `allowed_hosts`.")
        for value in request.all(b"origin"):
            origin = value.decode("latin-1").lower()
            scheme, _, authority = origin.partition("://")
            if origin not in self._origins and not (scheme == "https" and self._ours(authority)):
                raise ForeignOrigin("Requests from this origin are not allowed; see `allowed_origins`.")

    def _ours(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority)
        return match is not None and match["host"].strip("[]") in self._hosts
