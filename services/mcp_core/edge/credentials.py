"""What a request proves itself with: the Authorization header, and the client certificate of its connection.

The header comes once, of a scheme we know, with something in it. A certificate alone is a credential too; a header
that is no good is not made up for by a certificate. A credential in the URL is refused even beside a good header
(MCP authorization, "Access Token Usage"; RFC 9700, 4.3.2): proxies and logs have seen it.
"""

from __future__ import annotations

import re

from services.common.errors import Unauthenticated
from services.mcp_core.edge.wire import Request
from services.mcp_core.model import Credential

MAX_CREDENTIAL = 8192
"""Longest credential that is shown to authn, in characters."""

# RFC 6750 section 2.1 b64token, which API keys and JWTs both are; the scheme is case-insensitive (RFC 9110).
_CREDENTIAL = re.compile(r"(?P<scheme>[A-Za-z]+)[ ]+(?P<token>[A-Za-z0-9._~+/-]+=*)")
_SCHEMES = frozenset({"bearer", "apikey"})
_IN_QUERY = re.compile(rb"(?:^|[&;?])(?:access_token|api[_-]?key|authorization|token)=", re.IGNORECASE)

SEND = "Send a credential: `Authorization: Bearer <API key or JWT>`."
NOT_IN_URL = "Send the credential in the Authorization header, never in the URL, and replace one that was sent there."


class NoCredential(Unauthenticated):
    """Nothing was sent that authn could be asked about. ``reason`` is for the record: it holds no input."""

    def __init__(self, reason: str, public_message: str = SEND) -> None:
        super().__init__(public_message)
        self.reason = reason


def credential(request: Request) -> Credential:
    """The one credential of a request.

    Raises:
        NoCredential: there is none, or the header is doubled, empty, malformed, over-long or of another scheme, or
            the URL carries one.
    """
    if _IN_QUERY.search(request.query):
        raise NoCredential("credential in the URL", NOT_IN_URL)
    values = request.all(b"authorization")
    if not values:
        if request.client_certificate:
            return Credential(certificate=request.client_certificate)
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
    return Credential(match["token"], request.client_certificate)
