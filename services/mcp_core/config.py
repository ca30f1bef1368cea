"""Configuration of mcp_core. Frozen; unknown keys are refused; secrets are files."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

import pydantic

from services.common.config import FilePath, Model, PeerAddress, TlsFiles
from services.common.telemetry.config import ADDRESS, TelemetryConfig
from services.mcp_core.naming import DNS1123_LABEL
from services.mcp_core.tools import TOOLSETS

Address = Annotated[str, pydantic.Field(pattern=ADDRESS)]
"""``host:port``; port 0 takes a free one."""


class EdgeTls(Model):
    """Certificate chain and private key that clients see, as PEM files."""

    cert_file: FilePath
    key_file: FilePath

    @pydantic.field_validator("cert_file", "key_file")
    @classmethod
    def _readable(cls, path: FilePath) -> FilePath:
        if not os.access(path, os.R_OK):
            raise ValueError(f"cannot read {path}; `kubegate up` makes it")
        return path


class ClusterConfig(Model):
    """The cluster to operate: by a kubeconfig, or with ``in_cluster`` the one that this process runs in.

    One of them is named; neither is ever tried for want of the other. ``context`` is one of the kubeconfig's, by
    default its current one. ``act_as: core`` asks the cluster as the core's own account and not as the caller, for
    clusters that grant no impersonation: the cluster's RBAC is no second lock then.

    ``allow_exec_plugins`` lets the kubeconfig run a program that fetches credentials, as managed clusters do.
    """

    name: Annotated[str, pydantic.Field(min_length=1, max_length=63)] = "default"
    kubeconfig: FilePath | None = None
    in_cluster: bool = False
    act_as: Literal["caller", "core"] = "caller"
    context: str | None = None
    allow_exec_plugins: bool = False

    @pydantic.model_validator(mode="after")
    def _one_way_in(self) -> ClusterConfig:
        if (self.kubeconfig is None) == (not self.in_cluster):
            raise ValueError("name one way to the cluster: `kubeconfig: FILE`, or `in_cluster: true`")
        if self.in_cluster and (self.context is not None or self.allow_exec_plugins):
            raise ValueError("`context` and `allow_exec_plugins` belong to a kubeconfig, not to `in_cluster`")
        return self


class SourceLimit(Model):
    """Per source address: failed and missing authentications, at once and per second (R25).

    A client whose credential has been accepted is not limited here, however busy it is.
    """

    burst: Annotated[int, pydantic.Field(ge=5)] = 60
    per_second: Annotated[float, pydantic.Field(gt=0)] = 1.0


class Config(Model):
    """Everything that mcp_core is told at start."""

    listen: Address = "127.0.0.1:8443"
    tls: EdgeTls
    client_ca_file: FilePath | None = None
    """Authorities of client certificates, PEM; without it none is asked for. authn says whom one stands for."""
    mesh: TlsFiles
    health_listen: Address | None = None
    """Where grpc.health.v1 is answered, and nothing else, as the other services do: over mTLS with the certificate of
    ``mesh``, to services, operators and platform services. Without it nowhere; ``/readyz`` says the same."""
    authn: PeerAddress
    authz: PeerAddress
    audit: PeerAddress
    cluster: ClusterConfig
    further_clusters: tuple[ClusterConfig, ...] = ()
    """With any, every call names its cluster, and none is assumed. Policy sees the name as ``action.cluster``: a grant
    without a condition on it is good for all."""
    sealing_key_file: FilePath
    """Seals what clients carry, confirmations and the rounds of a call (R16): a base64 key of 32 bytes a line, the same
    file for every replica. The first seals, all open, so that a new one can be put first."""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    """Host names that clients may use, with any port; others get 421."""
    allowed_origins: tuple[str, ...] = ()
    """Origins that browsers may send beside https on an allowed host; others get 403."""
    base_url: Annotated[str, pydantic.Field(pattern=r"^https://[^\s/?#]+$")] | None = None
    """The URL that clients use, without path; by default https://localhost and the port."""
    source_limit: SourceLimit = SourceLimit()
    max_body_bytes: Annotated[int, pydantic.Field(ge=1024, le=16 * 1024 * 1024)] = 1024 * 1024
    max_connections: Annotated[int, pydantic.Field(ge=1)] = 1024
    max_connections_per_source: Annotated[int, pydantic.Field(ge=1)] | None = None
    """Connections from one address at once; by default a quarter of ``max_connections``. Behind a proxy that all
    clients share, set it higher."""
    head_seconds: Annotated[float, pydantic.Field(gt=0, le=60)] = 10.0
    """What a client may take for the TLS handshake, and for the head of a request."""
    idle_seconds: Annotated[int, pydantic.Field(ge=1, le=600)] = 30
    """How long a connection without a request stays open."""
    request_seconds: Annotated[float, pydantic.Field(ge=5, le=50)] = 30.0
    """What one request may take in all, the record included; less than the 60 s that a principal token lives."""
    toolset: Literal["all", "read_only"] = "all"
    """``read_only`` offers no tool that changes the cluster."""
    toolsets_off: tuple[str, ...] = ()
    """Groups of tools that are not offered, such as `nodes` or `configuration`."""
    address_file: FilePath | None = None
    """Where to write the bound host:port after start."""
    telemetry: TelemetryConfig = TelemetryConfig()

    @pydantic.field_validator("sealing_key_file")
    @classmethod
    def _key_is_there(cls, path: FilePath) -> FilePath:
        if not os.access(path, os.R_OK):
            raise ValueError(f"cannot read {path}; `kubegate up` makes it, or `openssl rand -base64 32` (mode 0600)")
        return path

    @pydantic.field_validator("further_clusters")
    @classmethod
    def _told_apart(
        cls, further: tuple[ClusterConfig, ...], info: pydantic.ValidationInfo
    ) -> tuple[ClusterConfig, ...]:
        first = info.data.get("cluster")
        names = [one.name for one in (*((first,) if first else ()), *further)]
        if further and (bad := next((name for name in names if not re.fullmatch(DNS1123_LABEL, name)), None)):
            raise ValueError(f"calls name their cluster, so {bad!r} must be lower-case letters, digits and '-'")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two clusters are called {twice!r}")
        return further

    @pydantic.field_validator("allowed_hosts")
    @classmethod
    def _plain_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not hosts or any(not host or "/" in host or "*" in host for host in hosts):
            raise ValueError("must list host names without scheme, port or wildcard")
        return tuple(host.lower() for host in hosts)

    @pydantic.field_validator("toolsets_off")
    @classmethod
    def _known_toolsets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in TOOLSETS]:
            raise ValueError(f"there is no group of tools {unknown[0]!r}; there are {', '.join(sorted(TOOLSETS))}")
        return names
