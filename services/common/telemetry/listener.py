"""The scrape endpoint: ``GET /metrics`` for Prometheus and ``GET /status`` for ``kubegate status``, nothing else.

Plain HTTP on a loopback address; anywhere else TLS 1.3 with the mesh's certificates, for named readers.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from services.common.config import TlsFiles
from services.common.log import get_logger
from services.common.runtime_errors import StartupError
from services.common.telemetry.config import MetricsConfig, is_loopback
from services.common.tls import matches, spiffe_path

SECONDS = 5.0
"""For the head of a request, and for its answer to be taken."""

MAX_CONNECTIONS = 16
MAX_HEAD = 16 * 1024

Answer = tuple[int, str, bytes]

log = get_logger("telemetry")


class ScrapeListener:
    """Answers one request a connection."""

    def __init__(
        self,
        config: MetricsConfig,
        tls: TlsFiles,
        registry: CollectorRegistry,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._config = config
        self._tls = None if is_loopback(config.listen) else tls
        self._registry = registry
        self._status = status
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> str:
        """Listens; returns the bound ``host:port``.

        Raises:
            StartupError: the address cannot be bound, or the certificate not be used.
        """
        host, _, port = self._config.listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), ssl=self._context(), limit=MAX_HEAD
            )
        except (OSError, OverflowError) as error:
            raise StartupError(
                f"telemetry.metrics: cannot listen on {self._config.listen}: "
                f"{getattr(error, 'strerror', None) or error}; choose another address as `telemetry.metrics.listen`"
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return f"{host}:{bound}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def _context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        context = _load(self._tls)
        files = self._tls

        def renewed(connection: ssl.SSLObject, _name: str | None, _old: ssl.SSLContext) -> None:
            # At every handshake, so that a rotated certificate is served without a restart; half-replaced files
            # leave the pair that works.
            with suppress(OSError):
                connection.context = _load(files)

        context.sni_callback = renewed
        return context

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                async with asyncio.timeout(SECONDS):
                    status, media_type, body = await self._answer(reader, writer)
                    writer.write(_head(status, media_type, body) + body)
                    await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
        line = (await reader.readline()).decode("latin-1")
        size = len(line)
        while (header := await reader.readline()) not in (b"\r\n", b"\n", b""):
            size += len(header)
            if size > MAX_HEAD:
                return 431, "text/plain", b"too long\n"
        if (refusal := self._refusal(writer)) is not None:
            log.warning("scrape refused", peer=refusal)
            return 403, "text/plain", b"this certificate may not read; see telemetry.metrics.readers\n"
        match line.split():
            case ["GET", target, *_] if target.partition("?")[0] == "/metrics":
                # Off the loop: thousands of lines take milliseconds, and nothing waits for them.
                page = await asyncio.to_thread(generate_latest, self._registry)
                return 200, CONTENT_TYPE_LATEST, page
            case ["GET", "/status", *_]:
                return 200, "application/json", json.dumps(self._status()).encode() + b"\n"
            case ["GET", _, *_]:
                return 404, "text/plain", b"there are /metrics and /status\n"
        return 405, "text/plain", b"use GET\n"

    def _refusal(self, writer: asyncio.StreamWriter) -> str | None:
        """Who asks without being allowed to."""
        if self._tls is None:
            return None
        certificate = writer.get_extra_info("peercert") or {}
        names: Sequence[str] = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        path = spiffe_path(names) or "unknown"
        return None if matches(path, self._config.readers) else path


def _load(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tls.ca_file)
    context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def _head(status: int, media_type: str, body: bytes) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Refused'}",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "X-Content-Type-Options: nosniff",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
