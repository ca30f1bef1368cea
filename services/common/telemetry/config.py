"""Configuration of telemetry: without it nothing listens and nothing is sent."""

import ipaddress
from typing import Self

import pydantic

from services.common.config import Model

ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}$"


class MetricsConfig(Model):
    """The scrape endpoint. On a loopback address it is plain HTTP; on any other one mTLS 1.3 with the service's mesh
    certificate, for peers that ``readers`` names."""

    listen: str = pydantic.Field(pattern=ADDRESS)
    """``host:port``; port 0 takes a free one."""
    readers: tuple[str, ...] = ("platform/prometheus", "operator/*")
    """SPIFFE paths that may read; only of use with mTLS."""


class TracesConfig(Model):
    """Export of spans by OTLP over gRPC. A collector on a loopback address is asked in the clear, any other one over
    mTLS with the service's mesh certificate."""

    endpoint: str = pydantic.Field(pattern=ADDRESS)
    """``host:port`` of the collector."""
    server_name: str = ""
    """The DNS name that the collector's certificate must carry; required where it is not on loopback."""
    sample_ratio: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Which part of the traces that begin here is recorded. Services behind the edge follow the edge."""
    trust_callers: bool = False
    """Whether a client's own sampling flag counts. Its trace id is taken over in any case."""

    @pydantic.model_validator(mode="after")
    def _named(self) -> Self:
        if not is_loopback(self.endpoint) and not self.server_name:
            raise ValueError("name the collector's certificate as `server_name`: spans leave this machine over mTLS")
        return self


class TelemetryConfig(Model):
    """What an operator may see from outside."""

    metrics: MetricsConfig | None = None
    traces: TracesConfig | None = None


def is_loopback(address: str) -> bool:
    """Whether a ``host:port`` can only be reached from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
