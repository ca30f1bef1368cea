"""Runs the development cluster: `python -m services.dev_cluster --config FILE`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from services.dev_cluster import config, seed, server
from services.dev_cluster.cluster import Cluster


def main() -> int:
    """Exit code 0 after a clean stop, 2 when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m services.dev_cluster",
        description="An in-memory Kubernetes API for development, demonstrations and tests only.",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument(
        "--check-config", action="store_true", help="only say whether the configuration can be used"
    )
    arguments = parser.parse_args()
    try:
        settings = config.load(arguments.config)
        server.tls_context(settings)
        cluster = Cluster()
        seed.plant(cluster, seeded=settings.seed, manifests=settings.manifests)
        if arguments.check_config:
            print(f"{arguments.config}: ok")
            return 0
        cluster.controllers.pods.scale = settings.time_scale
        asyncio.run(server.serve(settings, cluster))
    except (config.ConfigError, seed.ManifestError, server.StartError) as error:
        print(f"dev_cluster: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
