"""Where the parts of a stack listen and by which names they find one another."""

import contextlib
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.runtime_errors import StartupError

LOOPBACK = "127.0.0.1"
EDGE_HOSTS = ("localhost", LOOPBACK, "::1")
MESH = ("audit", "authn", "authz")
CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Placing:
    """Addresses are ``host:port``, by the name of the service."""

    listen: Mapping[str, str]
    address: Mapping[str, str]
    scrape: Mapping[str, str]
    """Where services listen for Prometheus."""
    metrics: Mapping[str, str]
    """The URLs that this makes."""
    core_health: tuple[str, str]
    """Where mcp-core answers grpc.health.v1, as the others do where they serve: to listen on, and to ask."""
    traces: Mapping[str, Any] | None = None
    """Where spans are sent: ``telemetry.traces`` of every service. ``None`` leaves it as it is, ``{}`` ends it."""
    cluster_hosts: Sequence[str] = EDGE_HOSTS
    """Names and addresses in the embedded cluster's certificate."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What else the configuration of a service says here; ``None`` takes a key out of it."""


_GIVEN: set[int] = set()
"""Ports that this process was given: nobody listens there yet, and they are not free any more."""


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on at the moment, another one each time.

    Below the range from which systems number outgoing connections (Linux: 32768 on): one of those would take the port
    before the service that it is meant for has started.
    """
    for port in secrets.SystemRandom().sample(range(15_000, 32_000), 100):
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                if port not in _GIVEN:
                    _GIVEN.add(port)
                    return port
    raise StartupError("no free port on 127.0.0.1 between 15000 and 32000; stop something that listens there")


def on_loopback(edge_port: int, otlp: str = "", sample: float = 1.0) -> Placing:
    """Everything on this machine, on free ports. ``otlp``: ``host:port`` of a collector, or ``off``."""
    places = {name: f"{LOOPBACK}:{free_port()}" for name in (*MESH, CLUSTER)}
    places["mcp-core"] = f"{LOOPBACK}:{edge_port}"
    scrape = {name: f"{LOOPBACK}:{free_port()}" for name in (*MESH, "mcp-core")}
    health = f"{LOOPBACK}:{free_port()}"
    traces = {"endpoint": otlp, "sample_ratio": sample} if otlp not in ("", "off") else {} if otlp else None
    metrics = {name: f"http://{at}/metrics" for name, at in scrape.items()}
    return Placing(places, places, scrape, metrics, (health, health), traces)
