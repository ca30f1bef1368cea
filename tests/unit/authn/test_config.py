"""The configuration: all problems at once, read from the message (I2.11)."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.mesh import Mesh
from tests.fakes.processes import peer_config, tls_config
from tests.unit.authn.support import write_secret


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
def config(tmp_path: Path, mesh: Mesh) -> dict[str, Any]:
    write_secret(tmp_path / "pepper", b"p" * 44)
    write_secret(tmp_path / "kek", b"k" * 44)
    return {
        "listen": "127.0.0.1:0",
        "tls": tls_config(mesh.tls("service/authn")),
        "audit": peer_config("audit", 1),
        "authz": peer_config("authz", 1),
        "store": "authn.db",
        "pepper_file": "pepper",
        "kek_file": "kek",
    }


def start(tmp_path: Path, config: dict[str, Any], *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "services.authn", "--config", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_valid_configuration_is_said_to_be(tmp_path: Path, config: dict[str, Any]) -> None:
    done = start(tmp_path, config, "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "authn.db").exists()


@pytest.mark.req("I2.11")
def test_all_problems_are_reported_at_once(tmp_path: Path, config: dict[str, Any]) -> None:
    del config["store"]
    done = start(tmp_path, {**config, "peper_file": "x", "access_token_ttl": 1, "listen": "nowhere"}, "--check-config")
    assert done.returncode == 2
    for problem in ("store", "peper_file: unknown key", "access_token_ttl", "listen"):
        assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.req("I2.11")
def test_checking_reads_what_the_configuration_names(tmp_path: Path, config: dict[str, Any]) -> None:
    """Regression: a configuration was called valid that no service could start with."""
    (tmp_path / "pepper").unlink()
    write_secret(tmp_path / "kek", b"short")
    config["issuers"] = [{"issuer": "http://idp", "audience": "kubegate"}]
    config["client_ca_file"] = "clients.crt"
    done = start(tmp_path, config, "--check-config")
    assert done.returncode == 2
    for problem in ("pepper: ", "fewer than 32 bytes", "https URL", "clients.crt: "):
        assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.req("I2.11", "R9")
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda home: (home / "pepper").unlink(), "cannot be read"),
        (lambda home: (home / "pepper").chmod(0o644), "chmod 600"),
        (lambda home: write_secret(home / "kek", b"short"), "fewer than 32 bytes"),
        (lambda home: write_secret(home / "authn.db", b"junk" * 2000), "damaged or not a SQLite database"),
    ],
)
def test_what_keeps_it_from_starting_is_named(tmp_path: Path, config: dict[str, Any], spoil: Any, problem: str) -> None:
    spoil(tmp_path)
    done = start(tmp_path, config)
    assert done.returncode == 2
    assert problem in done.stderr
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    for secret in ("p" * 44, "k" * 44, "short"):
        assert secret not in done.stderr


@pytest.mark.req("I2.7", "I2.11")
def test_without_certificates_it_does_not_start(tmp_path: Path, config: dict[str, Any]) -> None:
    del config["tls"]
    assert "tls: required key is missing" in start(tmp_path, config).stderr
