"""Starts the authn service: ``python -m services.authn --config FILE``."""

from services.authn.config import AuthnConfig
from services.authn.trust import check
from services.authn.wiring import main
from services.common.runtime import run

if __name__ == "__main__":
    run(main, AuthnConfig, "services.authn", "Decides who a caller is.", check)
