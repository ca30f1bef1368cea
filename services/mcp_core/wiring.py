"""Constructs mcp_core. Starts without its peers: not ready then, and healed when they come."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Collection, Mapping, Sequence

from services.common.audit_client import AuditClient
from services.common.clock import SystemClock
from services.common.deadline import Deadline
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.runtime import announce_address
from services.common.telemetry import metrics
from services.common.telemetry.process import Facts, Telemetry
from services.mcp_core.adapters import health
from services.mcp_core.adapters.audit import AuditAdapter
from services.mcp_core.adapters.authn import AuthnAdapter
from services.mcp_core.adapters.authz import AuthzAdapter, policy_lease
from services.mcp_core.adapters.kubeconfig import ClusterSettings
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.adapters.measured_steps import (
    MeasuredAuthenticator,
    MeasuredAuthorizer,
    MeasuredRecorder,
    measured_tools,
)
from services.mcp_core.adapters.once import AuthzKeeper
from services.mcp_core.adapters.sealing import FernetSealer, SealingKeys
from services.mcp_core.config import ClusterConfig, Config
from services.mcp_core.decision_cache import CachedAuthorizer
from services.mcp_core.edge.connections import ConnectionLimits
from services.mcp_core.edge.guard import Guard
from services.mcp_core.edge.limiter import SourceLimiter
from services.mcp_core.edge.measured import MeasuredEdge
from services.mcp_core.edge.server import HttpsServer, bind, tls_context
from services.mcp_core.http import Edge, EdgeSettings
from services.mcp_core.mcp import Elicitations, McpEndpoint, McpSettings, Pack, product
from services.mcp_core.mcp.across import across
from services.mcp_core.mcp.messages import ACTIONS, INVALID
from services.mcp_core.pipeline import Pipeline
from services.mcp_core.ports import Cluster
from services.mcp_core.readiness import Probe, Readiness
from services.mcp_core.tools import REGISTRY, TOOLSETS
from services.mcp_core.tools.base import Tool

DRAIN_SECONDS = 5.0
"""How long records in flight may take when the process stops."""


async def main(config: Config, packed: Callable[[Mapping[str, Tool]], Pack] = product) -> None:
    """Serves until cancelled. ``packed``: what is served over the tools of the configuration.

    Raises:
        StartupError: a certificate, the kubeconfig, a secret or the port cannot be used.
    """
    clock = SystemClock()
    context = tls_context(config.tls.cert_file, config.tls.key_file, config.client_ca_file)
    keys = SealingKeys(config.sealing_key_file)
    sealer = FernetSealer(keys)
    listener = bind(config.listen)
    async with contextlib.AsyncExitStack() as closing:
        closing.callback(listener.close)
        telemetry = Telemetry("mcp-core", config.telemetry, config.mesh, metrics.CORE)
        closing.push_async_callback(telemetry.stop)
        clusters: list[Cluster] = []
        for each in (config.cluster, *config.further_clusters):
            cluster = await KubernetesCluster.open(_settings(each))
            closing.push_async_callback(cluster.close)
            clusters.append(cluster)

        authn_peer = Peer("authn", config.authn, config.mesh)
        authz_peer = Peer("authz", config.authz, config.mesh)
        audit_peer = Peer("audit", config.audit, config.mesh)
        for peer in (authn_peer, authz_peer, audit_peer):
            closing.push_async_callback(peer.close)
        authn = AuthnAdapter(authn_peer, clock)
        closing.push_async_callback(authn.close)
        closing.push_async_callback(_cancel, asyncio.create_task(authn.keep()))
        authz = AuthzAdapter(authz_peer)
        closing.push_async_callback(authz.close)
        decisions = CachedAuthorizer(authz, clock)
        lease = policy_lease(authz_peer, decisions.saw, clock)
        decisions.use(lease)
        closing.push_async_callback(_cancel, asyncio.create_task(lease.keep()))
        audit = AuditClient(audit_peer, clock)
        closing.push_async_callback(audit.close)

        pack = across(
            packed(measured_tools(offered_tools(config.toolset, config.toolsets_off))), [one.name for one in clusters]
        )
        authenticator = MeasuredAuthenticator(authn)
        keeper = AuthzKeeper(authz_peer)
        pipeline = Pipeline(
            registry=pack.tools,
            authenticator=authenticator,
            authorizer=MeasuredAuthorizer(decisions),
            recorder=MeasuredRecorder(AuditAdapter(audit), (*pack.tools, *ACTIONS.values(), INVALID, "resources")),
            clusters=clusters,
            keeper=keeper,
            sealer=sealer,
            clock=clock,
        )
        closing.push_async_callback(pipeline.drain, DRAIN_SECONDS)
        base_url = config.base_url or f"https://localhost:{listener.getsockname()[1]}"
        settings = McpSettings(config.max_body_bytes, base_url, keys.derived("request state"))
        endpoint = McpEndpoint(pipeline, pack, settings, Elicitations(pipeline, keeper, sealer))
        readiness = Readiness(probes(authn_peer, authz_peer, audit_peer, clusters), clock)
        limiter = SourceLimiter(config.source_limit.burst, config.source_limit.per_second, clock)
        edge = Edge(
            EdgeSettings(
                base_url=base_url,
                max_body=config.max_body_bytes,
                request_seconds=config.request_seconds,
            ),
            pipeline=pipeline,
            endpoint=endpoint,
            authenticator=authenticator,
            registry=pack.tools,
            readiness=readiness,
            guard=Guard(config.allowed_hosts, config.allowed_origins),
            limiter=limiter,
            clock=clock,
        )
        limits = ConnectionLimits(
            most=config.max_connections,
            per_source=config.max_connections_per_source or max(1, config.max_connections // 4),
            handshake=config.head_seconds,
            head=config.head_seconds,
            idle=config.idle_seconds,
            unread=config.max_body_bytes,
        )
        # Nobody who was let in is sent away unanswered: a call has this long at most.
        server = HttpsServer(MeasuredEdge(edge), listener, context, limits, grace=config.request_seconds + 5)
        metrics.follow(metrics.LIMITED_SOURCES, lambda: limiter.sources)
        metrics.follow(metrics.OPEN_CONNECTIONS, lambda: server.connections)
        await telemetry.start(Facts(readiness.last, certificates={"edge": config.tls.cert_file}))
        answering = health_server(config, readiness)
        if answering is not None:
            await answering.start()
        await closing.enter_async_context(endpoint.running())
        await server.start()
        closing.push_async_callback(server.stop)
        # Not ready before it serves, and away before it stops: who is told that the core serves finds it serving.
        closing.push_async_callback(_cancel, asyncio.create_task(readiness.keep()))
        if answering is not None:
            closing.push_async_callback(answering.stop, 0.0)
        announce_address(config.address_file, server.address)
        # What exists now lives as long as the process; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        await server.wait()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def offered_tools(toolset: str, off: Collection[str] = ()) -> Mapping[str, Tool]:
    """The tools that this installation offers at all."""
    hidden = {name for group in off for name in TOOLSETS[group]}
    return {
        name: tool for name, tool in REGISTRY.items() if name not in hidden and (toolset == "all" or tool.read_only)
    }


def health_server(config: Config, readiness: Readiness) -> GrpcServer | None:
    """What answers grpc.health.v1 with what was known to be missing a moment ago; closed unless configured."""
    if config.health_listen is None:
        return None
    return GrpcServer(config.health_listen, config.mesh, lambda: list(readiness.last()))


def _settings(cluster: ClusterConfig) -> ClusterSettings:
    return ClusterSettings(
        cluster.name,
        cluster.kubeconfig,
        cluster.context,
        allow_exec_plugins=cluster.allow_exec_plugins,
        impersonate=cluster.act_as == "caller",
    )


def probes(authn: Peer, authz: Peer, audit: Peer, clusters: Sequence[Cluster]) -> dict[str, Probe]:
    """What has to answer before the core is ready; each of several clusters by its name."""

    def answers(cluster: Cluster) -> Probe:
        async def probe(deadline: Deadline) -> None:
            await cluster.version(deadline)

        return probe

    return {
        "authn": lambda deadline: health.check(authn, deadline),
        "authz": lambda deadline: health.check(authz, deadline),
        "audit": lambda deadline: health.check(audit, deadline),
        **{("cluster" if len(clusters) == 1 else f"cluster {each.name}"): answers(each) for each in clusters},
    }
