"""What a request must be like before anything is done with it, whoever sends it.

Host and Origin are on their allow-lists, against DNS rebinding and foreign web pages; both are checked, always. The
length of the body is said in one way and only where a body belongs, so that no proxy in front of us can see other
requests than we do (RFC 9112, 11.2).
"""

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


class AmbiguousLength(InvalidArgument):
    """The body's end is said in two ways: HTTP 400, and the connection ends (RFC 9112, section 6.3)."""


class UnknownVersion(InvalidArgument):
    """Neither HTTP/1.0 nor HTTP/1.1, which are read alike: HTTP 505."""


class UnexpectedBody(InvalidArgument):
    """A body where none belongs: HTTP 400 (RFC 9110, section 9.3.1)."""


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
        HeadersTooLarge, UnknownVersion, AmbiguousLength, UnexpectedBody, Misdirected, ForeignOrigin: the request
            is over the bound, could be read in two ways, is not for us, or comes from a page that may not ask us.
        """
        if request.scope.get("http_version", "1.1") not in ("1.0", "1.1"):
            raise UnknownVersion("This server speaks HTTP/1.1.")
        if sum(len(name) + len(value) for name, value in request.headers) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"The headers are longer than {MAX_HEADER_BYTES} bytes.")
        _length(request)
        hosts = [value.decode("latin-1").lower() for value in request.all(b"host")]
        # With an absolute target both name the host, and must agree (RFC 9112, 3.2.2).
        named = {*hosts, request.authority} - {""}
        if len(hosts) != 1 or len(named) != 1 or not self._ours(hosts[0]):
            raise Misdirected("This server does not answer for the host of this request; see `allowed_hosts`.")
        for value in request.all(b"origin"):
            origin = value.decode("latin-1").lower()
            scheme, _, authority = origin.partition("://")
            if origin not in self._origins and not (scheme == "https" and self._ours(authority)):
                raise ForeignOrigin("Requests from this origin are not allowed; see `allowed_origins`.")

    def _ours(self, authority: str) -> bool:
        match = _AUTHORITY.fullmatch(authority)
        return match is not None and match["host"].strip("[]") in self._hosts


def _length(request: Request) -> None:
    coded, lengths = request.all(b"transfer-encoding"), request.all(b"content-length")
    if len(coded) + len(lengths) > 1:
        raise AmbiguousLength("Say the length of the body once: by Content-Length, or by Transfer-Encoding.")
    if request.method in ("GET", "HEAD") and (coded or lengths not in ([], [b"0"])):
        raise UnexpectedBody(f"{request.method} takes no body.")
