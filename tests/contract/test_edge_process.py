"""The real process of mcp_core: it starts without anybody, says what is missing, and stops when told to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
import yaml
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from services.cli.pki import write_private
from services.cli.placing import free_port
from services.common.grpc_server import PROBLEMS_METADATA
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
def running(home: Path, **changes: Any) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    address = home / "address"
    address.unlink(missing_ok=True)
    process = subprocess.Popen(command(home, configuration(**changes)), stderr=subprocess.PIPE, text=True)
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
    assert "kubegate up" in message
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


async def health(mesh: Mesh, address: str, as_: str) -> tuple[str, list[str]]:
    """The status by grpc.health.v1, or the code of the refusal, and the lines that came with it."""
    peer = mesh.peer("mcp-core", int(address.rpartition(":")[2]), as_)
    try:
        call = health_pb2_grpc.HealthStub(peer.channel()).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        try:
            status = health_pb2.HealthCheckResponse.ServingStatus.Name((await call).status)
        except aio.AioRpcError as error:
            return error.code().name, []
        said = dict(await call.trailing_metadata() or ()).get(PROBLEMS_METADATA, b"")
        return status, said.decode().splitlines() if isinstance(said, bytes) else []
    finally:
        await peer.close()


@pytest.mark.req("I9.14", "R7")
def test_its_health_is_told_over_mtls_to_the_mesh_and_nobody_else(home: Path, tmp_path: Path) -> None:
    mesh, address = Mesh(home / "mesh"), f"127.0.0.1:{free_port()}"
    with running(home, health_listen=address) as (process, client):
        # Asked before this is answered.
        assert client.get("/readyz").status_code == 503

        def asked(as_: str, by: Mesh = mesh) -> tuple[str, list[str]]:
            return asyncio.run(health(by, address, as_))

        for path in ("service/authn", "operator/alice", "platform/probe"):
            status, lines = asked(path)
            assert status == "NOT_SERVING"
            assert {line.partition(":")[0] for line in lines} == {"authn", "authz", "audit", "cluster"}
        assert asked("stranger/mallory") == ("PERMISSION_DENIED", [])
        assert asked("operator/alice", Mesh(tmp_path)) == ("UNAVAILABLE", [])
        with pytest.raises(aio.AioRpcError) as refused:
            asyncio.run(_check(mesh, address))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED, "health, and nothing else"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


async def _check(mesh: Mesh, address: str) -> None:
    peer = mesh.peer("mcp-core", int(address.rpartition(":")[2]), "operator/alice")
    try:
        await authz_pb2_grpc.AuthzServiceStub(peer.channel()).Check(authz_pb2.CheckRequest(), timeout=PATIENCE)
    finally:
        await peer.close()


@pytest.mark.req("I9.14", "I2.11")
@pytest.mark.parametrize("of", ["health", "metrics"])
def test_another_address_in_use_is_named(home: Path, of: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = {"health_listen": address} if of == "health" else {"telemetry": {"metrics": {"listen": address}}}
        message = failed_start(home, configuration(**told))
    assert f"cannot listen on {address}" in message
    assert "choose another address" in message
