"""Starts the audit service: ``python -m services.audit --config FILE``."""

from services.audit.config import Config
from services.audit.wiring import main
from services.common.runtime import run

if __name__ == "__main__":
    run(main, Config, "services.audit", "Durable, tamper-evident record of what happened.")
