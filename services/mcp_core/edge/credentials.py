"""The Authorization header: exactly one, of a scheme we know, with something in it. There is no fallback."""

from __future__ import annotations

import re

from services.common.errors import Unauthenticated
from services.mcp_core.edge.wire import Request

MAX_CREDENTIAL = 8192
"""Longest credential that is shown to authn, in characters."""

# RFC 6750 section 2.1 b64token, which API keys and JWTs both are; the scheme is case-insensitive (RFC 9110).
_CREDENTIAL = re.compile(r"(?P<scheme>[A-Za-z]+)[ ]+(?P<token>[A-Za-z0-9._~+/-]+=*)")
_SCHEMES = frozenset({"bearer", "apikey"})


class NoCredential(Unauthenticated):
    """Nothing was sent that authn could be asked about. ``reason`` is for the record: it holds no input."""

    def __init__(self, reason: str) -> None:
        super().__init__("Send a credential: `Authorization: Bearer <API key or JWT>`.")
        self.reason = reason


def credential(request: Request) -> str:
    """The one credential of a request.

    Raises:
        NoCredential: the header is missing, doubled, empty, malformed, over-long or of another scheme.
    """
    values = request.all(b"authorization")
    if not values:
        raise NoCredential("no Authorization header")
    if len(values) > 1:
        raise NoCredential("more than one Authorization header")
    value = values[0].decode("latin-1").strip(" \t")
    scheme, _, rest = value.partition(" ")
    if not rest.strip():
        raise NoCredential("empty credential")
    if scheme.lower() not in _SCHEMES:
        raise NoCredential("unknown authorization scheme")
    match = _CREDENTIAL.fullmatch(value)
    if match is None or len(match["token"]) > MAX_CREDENTIAL:
        raise NoCredential("malformed credential")
    return match["token"]
