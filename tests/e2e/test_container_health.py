"""The health check of the containers, asked of real services (I2.13)."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.stack import RunningStack

HEALTH = Path(__file__).parents[2] / "deploy" / "health.py"


def check(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HEALTH), str(config)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.req("I2.13")
@pytest.mark.parametrize("service", ["authn", "authz", "audit", "mcp-core"])
def test_a_service_that_serves_is_healthy(service: str, stack: RunningStack) -> None:
    done = check(stack.home / service / "config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.req("I2.13")
@pytest.mark.parametrize("service", ["authn", "mcp-core"])
def test_a_service_that_is_away_is_not(service: str, stack: RunningStack, tmp_path: Path) -> None:
    home = tmp_path / service
    home.mkdir()
    config = yaml.safe_load((stack.home / service / "config.yaml").read_text(encoding="utf-8"))
    config |= {"listen": "127.0.0.1:1", **({"health_listen": "127.0.0.1:1"} if service == "mcp-core" else {})}
    for directory in ("tls", "edge"):
        if (stack.home / service / directory).exists():
            (home / directory).symlink_to(stack.home / service / directory)
    (home / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = check(home / "config.yaml")
    assert done.returncode == 1
    assert done.stdout.strip()
