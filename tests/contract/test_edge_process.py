"""The real process of mcp_core: it starts without anybody, says what is missing, and stops when told to."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml

from services.cli.pki import write_private
from tests.fakes.mesh import Mesh

PATIENCE = 30.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, and a kubeconfig of a cluster that is not there."""
    directory = tmp_path_factory.mktemp("core")
    Mesh(directory / "mesh").tls("service/mcp-core")
    authority = trustme.CA()
    pair = authority.issue_cert("localhost", "127.0.0.1")
    pair.private_key_pem.write_to_path(directory / "tls.key")
    pair.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    authority.cert_pem.write_to_path(directory / "ca.crt")
    ca = base64.b64encode(authority.cert_pem.bytes()).decode()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:9", "certificate-authority-data": ca}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": "nobody"}}],
    }
    (directory / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    write_private(directory / "sealing.key", base64.b64encode(bytes(32)))
    return directory


def configuration(**changes: Any) -> dict[str, Any]:
    mesh = "mesh/service/mcp-core"

    def peer(name: str) -> dict[str, str]:
        return {"address": "127.0.0.1:9", "server_name": f"{name}.kubegate.internal"}

    return {
        "listen": "127.0.0.1:0",
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "mesh": {"cert_file": f"{mesh}/tls.crt", "key_file": f"{mesh}/tls.key", "ca_file": f"{mesh}/ca.crt"},
        "authn": peer("authn"),
        "authz": peer("authz"),
        "audit": peer("audit"),
        "cluster": {"kubeconfig": "kubeconfig"},
        "sealing_key_file": "sealing.key",
        "address_file": "address",
    } | changes


def command(home: Path, config: dict[str, Any], *options: str) -> list[str]:
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "services.mcp_core", "--config", str(path), *options]


@contextlib.contextmanager
def running(home: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    address = home / "address"
    address.unlink(missing_ok=True)
    process = subprocess.Popen(command(home, configuration()), stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + PATIENCE
        while not address.exists():
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                pytest.fail(f"did not start: {process.communicate()[1]}")
            time.sleep(0.02)
        context = ssl.create_default_context(cafile=str(home / "ca.crt"))
        url = f"https://{address.read_text().strip()}"
        with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=PATIENCE) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.req("I2.6", "I2.11")
def test_it_starts_without_its_peers_and_says_what_is_missing(home: Path) -> None:
    with running(home) as (process, client):
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert {line.partition(":")[0] for line in ready.text.splitlines()} == {"authn", "authz", "audit", "cluster"}
        refused = client.post(
            "/mcp/tools/list_pods", json={"namespace": "default"}, headers={"authorization": "Bearer kg_a_b"}
        )
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert client.get("/mcp/resources").status_code == 503, "what cannot be recorded is not even refused"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert "kg_a_b" not in errors


def failed_start(home: Path, config: dict[str, Any], *options: str) -> str:
    done = subprocess.run(
        command(home, config, *options), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.req("I2.11")
def test_every_problem_of_a_configuration_is_listed(home: Path) -> None:
    config = configuration(tls={"cert_file": "none.crt", "key_file": "tls.key"}, allowed_hosts=["*"], colour="red")
    message = failed_start(home, config, "--check-config")
    assert "tls.cert_file" in message
    assert "none.crt" in message
    assert "kubegate certs issue" in message
    assert "allowed_hosts" in message
    assert "colour: unknown key" in message


@pytest.mark.req("I2.11")
def test_a_missing_mesh_certificate_is_named(home: Path) -> None:
    missing = {"cert_file": "no.crt", "key_file": "no.key", "ca_file": "no.ca"}
    message = failed_start(home, configuration(mesh=missing))
    for name in ("mesh.cert_file", "mesh.key_file", "mesh.ca_file"):
        assert name in message


@pytest.mark.req("I2.11")
def test_a_port_in_use_is_named(home: Path) -> None:
    with running(home) as (_, client):
        port = client.base_url.port
        message = failed_start(home, configuration(listen=f"127.0.0.1:{port}"))
    assert f"port {port}" in message
    assert "--port" in message


@pytest.mark.req("I2.11")
def test_an_unusable_kubeconfig_is_named(home: Path) -> None:
    message = failed_start(home, configuration(cluster={"kubeconfig": "nowhere"}))
    assert os.fspath(home / "nowhere") in message
    message = failed_start(home, configuration(cluster={"kubeconfig": "kubeconfig", "context": "other"}))
    assert "other" in message


def test_a_valid_configuration_is_valid(home: Path) -> None:
    done = subprocess.run(
        command(home, configuration(), "--check-config"), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
