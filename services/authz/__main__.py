"""Starts the authz service: ``python -m services.authz --config FILE``."""

from services.authz.config import AuthzConfig
from services.authz.wiring import check, main
from services.common.runtime import run

run(main, AuthzConfig, "services.authz", "Decides actions by policy.", check)
