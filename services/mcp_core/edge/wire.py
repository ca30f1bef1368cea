"""Requests and responses of raw ASGI: no framework on the hot path. All bodies are bounded and buffered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import InvalidArgument
from services.mcp_core.json_text import dump_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CLIENT_CERTIFICATE = "kubegate.client_certificate"
"""Key in the scope's state: the certificate (DER) that the client proved in the handshake of its connection."""


_ABSOLUTE = re.compile(r"https://([^/?#]*)(/.*)?", re.IGNORECASE | re.DOTALL)

BODY_SECONDS = 10.0
"""How long a client may take to send its body."""

SECURITY_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


class BodyTooLarge(InvalidArgument):
    """The body is longer than allowed: HTTP 413."""


class SlowBody(InvalidArgument):
    """The body did not arrive in time: HTTP 408."""


class Disconnected(Exception):
    """The client went away before its request was complete; nobody is there to answer."""


class Request:
    """One HTTP request. Headers are looked up by lower-case name.

    authority: of an absolute target (RFC 9112, 3.2.2), in lower case; "" where the target is a path, as usual.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.method: str = scope["method"]
        self.authority = ""
        absolute = _ABSOLUTE.fullmatch(scope["path"])
        if absolute is not None:
            self.authority, scope["path"] = absolute[1].lower(), absolute[2] or "/"
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Headers = scope["headers"]
        self.client_certificate: bytes = scope.get("state", {}).get(CLIENT_CERTIFICATE, b"")

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def drop(self, name: bytes) -> None:
        """Forgets a header, in the scope too, so that nothing further in can read it."""
        self.headers = self.scope["headers"] = [pair for pair in self.headers if pair[0] != name]

    def text(self, name: bytes, limit: int = 256) -> str:
        """The first value of a header, or "", printable and cut at ``limit``."""
        for key, value in self.headers:
            if key == name:
                decoded = value[:limit].decode("latin-1")
                return decoded if decoded.isprintable() else ""
        return ""

    def media_type(self) -> str:
        """The media type of the body in lower case, without parameters; "" where there is none."""
        return self.text(b"content-type").partition(";")[0].strip().lower()

    @property
    def address(self) -> str:
        """IP address of the client."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge, SlowBody: for the client. Disconnected: for nobody.
        """
        for value in self.all(b"content-length"):
            if value.isdigit() and int(value[:20]) > limit:
                raise BodyTooLarge(f"The body is longer than {limit} bytes.")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        raise BodyTooLarge(f"The body is longer than {limit} bytes.")
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise SlowBody(f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None


@dataclass(slots=True)
class Response:
    """One HTTP response; security headers and the request id are added when it is sent."""

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    headers: Headers = field(default_factory=list)

    def head(self, request_id: str) -> Headers:
        """Every header of it."""
        own: Headers = [(b"x-request-id", request_id.encode())]
        if self.body or self.status not in (202, 204):
            own.append((b"content-length", str(len(self.body)).encode()))
        if self.body:
            own.append((b"content-type", self.media_type.encode()))
        return own + self.headers + SECURITY_HEADERS

    async def send(self, send: Send, request_id: str) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.head(request_id)})
        await send({"type": "http.response.body", "body": self.body})


def json_response(value: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """A response with a JSON body."""
    return Response(status, dump_json(value), headers=list(headers))
