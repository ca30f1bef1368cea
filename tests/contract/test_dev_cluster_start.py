"""The development cluster starts with clear words or not at all, speaks TLS only, and stops when told."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.contract.test_dev_cluster import DEADLINE, Authority, Client, address_of, start, stop


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def refused(authority: Authority, config: dict[str, Any], *options: str) -> str:
    path = authority.directory / "refused.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "services.dev_cluster", "--config", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_every_problem_of_the_configuration_is_told_at_once(authority: Authority) -> None:
    config = authority.config(listen="nowhere", colour="red", manifests=["missing.yaml"])
    config["tls"]["key_file"] = "missing.key"
    said = refused(authority, config, "--check-config")
    for part in ("listen: ", "colour: unknown key", "missing.yaml", f"no such file: {authority.directory}/missing.key"):
        assert part in said


def test_a_port_in_use_is_named(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}" in refused(authority, authority.config(listen=address))


def test_a_manifest_that_cannot_be_applied_is_named(authority: Authority) -> None:
    metadata = {"name": "viewer", "namespace": "missing"}
    broken = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": []}
    (authority.directory / "broken.yaml").write_text(yaml.safe_dump(broken))
    said = refused(authority, authority.config(manifests=["broken.yaml"]))
    assert 'broken.yaml: Role viewer: namespaces "missing" not found' in said


@pytest.fixture
def address(authority: Authority) -> Iterator[str]:
    process = start(authority, authority.config(seed=False))
    try:
        yield address_of(authority, process)
    finally:
        stop(process)


def test_a_certificate_of_another_authority_does_not_connect(authority: Authority, address: str) -> None:
    stranger = Client(authority, address)
    other = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert(
        common_name="admin", organization_name="system:masters", key_type=trustme.KeyType.ECDSA
    )
    other.configure_cert(stranger.context)
    with pytest.raises(OSError):
        stranger.raw("GET", "/healthz")


def test_no_plain_http(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not connection.recv(100).startswith(b"HTTP/1.1 200")


def test_it_stops_while_watches_are_open(authority: Authority) -> None:
    process = start(authority, authority.config())
    try:
        client = Client(authority, address_of(authority, process), "admin", "system:masters")
        connection = HTTPSConnection(client.host, client.port, context=client.context, timeout=DEADLINE)
        connection.request("GET", "/api/v1/pods?watch=1")
        response = connection.getresponse()
        assert response.readline()
        process.send_signal(signal.SIGINT)
        response.read()
        connection.close()
        assert process.wait(DEADLINE) == 0
    finally:
        stop(process)
