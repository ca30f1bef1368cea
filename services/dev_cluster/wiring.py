"""Constructs the development cluster and serves it until cancelled."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import web

from services.common.runtime import StartupError, announce_address
from services.dev_cluster import seed
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.config import ClusterTls, DevClusterConfig
from services.dev_cluster.server import Server

# Open watches end at once; whatever else is under way gets this long.
STOP_WITHIN = 0.5


async def main(config: DevClusterConfig) -> None:
    """Serves until cancelled.

    Raises:
        StartupError: a certificate or manifest cannot be used, or the address is taken.
    """
    context = _tls_context(config.tls)
    cluster = Cluster()
    seed.plant(cluster, sample=config.seed, manifests=config.manifests)
    cluster.controllers.pods.speed = config.time_scale
    server = Server(cluster)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=STOP_WITHIN)
    await runner.setup()
    controllers = asyncio.create_task(cluster.controllers.run())
    try:
        try:
            await web.TCPSite(runner, config.host, config.port, ssl_context=context).start()
        except OSError as error:
            raise StartupError(f"listen: cannot listen on {config.listen}: {error.strerror or error}") from error
        host, port = runner.addresses[0][:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        announce_address(config.address_file, address)
        await asyncio.Event().wait()
    finally:
        server.watches.close()
        controllers.cancel()
        await runner.cleanup()


def _tls_context(tls: ClusterTls) -> ssl.SSLContext:
    """TLS 1.2 or better; a client certificate is optional, but one that is sent must be signed by the client CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (ssl.SSLError, OSError) as error:
        pair = f"cert_file {tls.cert_file} with key_file {tls.key_file}"
        raise StartupError(f"tls: cannot use {pair}: {error}") from error
    try:
        context.load_verify_locations(tls.client_ca_file)
    except (ssl.SSLError, OSError) as error:
        raise StartupError(f"tls: cannot use client_ca_file {tls.client_ca_file}: {error}") from error
    return context
