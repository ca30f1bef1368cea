"""Starts the development cluster: ``python -m services.dev_cluster --config FILE``."""

from services.common.runtime import run
from services.dev_cluster.config import DevClusterConfig
from services.dev_cluster.wiring import main

run(main, DevClusterConfig, "services.dev_cluster", "A Kubernetes API in memory, for development and tests only.")
