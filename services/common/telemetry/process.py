"""Telemetry of one process: what wiring starts before the service serves, and stops last."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from services.common import log
from services.common.config import TlsFiles
from services.common.telemetry import metrics, tracing
from services.common.telemetry.config import TelemetryConfig
from services.common.telemetry.listener import ScrapeListener

if TYPE_CHECKING:
    from services.common.telemetry.otlp import OtlpBackend


@dataclass(frozen=True, slots=True)
class Facts:
    """What a service tells of itself. ``problems`` keep it from serving, ``notices`` do not; ``revision`` and ``head``
    are short texts for people. ``certificates``: files by what they are for, beside the mesh's."""

    problems: Callable[[], Sequence[str]]
    notices: Callable[[], Sequence[str]] = list
    revision: Callable[[], str] = str
    head: Callable[[], str] = str
    certificates: Mapping[str, Path] = field(default_factory=dict)


class Telemetry:
    """Start it before the service serves, stop it last."""

    def __init__(
        self, service: str, config: TelemetryConfig, tls: TlsFiles, exported: Sequence[MetricWrapperBase]
    ) -> None:
        self._service = service
        self._config = config
        self._tls = tls
        self._exported = (*metrics.EVERY, *exported)
        self._started_at = time.time()
        self._listener: ScrapeListener | None = None
        self._backend: OtlpBackend | None = None
        self._facts = Facts(list)

    async def start(self, facts: Facts) -> None:
        """Listens and exports as configured.

        Raises:
            StartupError: the address of the scrape endpoint cannot be bound.
        """
        self._facts = facts
        if self._config.traces is not None:
            from services.common.telemetry.otlp import OtlpBackend

            self._backend = OtlpBackend(self._service, self._config.traces, self._tls)
            tracing.use(self._backend)
        if self._config.metrics is not None:
            self._listener = ScrapeListener(self._config.metrics, self._tls, self._registry(), self.status)
            await self._listener.start()

    async def stop(self) -> None:
        """Ends the endpoint and sends the spans that wait."""
        if self._listener is not None:
            await self._listener.stop()
        if self._backend is not None:
            tracing.use(None)
            await asyncio.to_thread(self._backend.close)

    def status(self) -> dict[str, Any]:
        """For ``kubegate status``."""
        facts = self._facts
        return {
            "service": self._service,
            "version": version("kubegate"),
            "started_at": _iso(self._started_at),
            "uptime_seconds": round(time.time() - self._started_at),
            "revision": facts.revision(),
            "head": facts.head(),
            "certificates": {name: _iso(_expiry(path)) for name, path in self._certificates().items()},
            "problems": list(facts.problems()),
            "notices": list(facts.notices()),
            "last_error": log.last_error(),
        }

    def _certificates(self) -> dict[str, Path]:
        return {"mesh": self._tls.cert_file, **self._facts.certificates}

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        for family in self._exported:
            registry.register(family)
        metrics.BUILD.labels(self._service, version("kubegate")).set(1)
        metrics.follow(metrics.READY, lambda: 0.0 if self._facts.problems() else 1.0)
        for name, path in self._certificates().items():
            metrics.follow(metrics.CERTIFICATE_EXPIRY.labels(name), partial(_expiry, path))
        return registry


def _expiry(path: Path) -> float:
    """When the first certificate of a file ends, in seconds since 1970; 0 where it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
