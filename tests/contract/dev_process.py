"""The development cluster as a process, and clients of it: kubectl and plain HTTPS."""

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

KUBECTL = Path(sys.executable).with_name("kubectl")
DEADLINE = 60.0
CORE = "kubegate:core"

# What `kubegate cluster rbac` is like: a role's rights bound to its group, and whom the core may impersonate.
RBAC = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: viewer, namespace: development}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer, namespace: development}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: viewer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "kubegate:role:viewer"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: impersonator}
rules:
  - {apiGroups: [""], resources: [users], verbs: [impersonate]}
  - {apiGroups: [""], resources: [groups], resourceNames: ["kubegate:role:viewer"], verbs: [impersonate]}
  - apiGroups: [authentication.k8s.io]
    resources: [userextras/request-id]
    resourceNames: [r-1]
    verbs: [impersonate]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: impersonator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: impersonator}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "kubegate:core"}]
"""


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds, for as long as a busy machine may need."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


class Authority:
    """A CA, a server certificate, and client certificates on demand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        server = self.ca.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
        self.ca.cert_pem.write_to_path(str(directory / "ca.crt"))
        server.cert_chain_pems[0].write_to_path(str(directory / "tls.crt"))
        server.private_key_pem.write_to_path(str(directory / "tls.key"))

    def config(self, **more: Any) -> dict[str, Any]:
        tls = {"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "ca.crt"}
        return {"listen": "127.0.0.1:0", "tls": tls, "address_file": "address", "time_scale": 20, **more}


class Client:
    """One user of the cluster, by kubectl and by plain HTTPS."""

    def __init__(self, authority: Authority, address: str, name: str = "", group: str | None = None) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.context = ssl.create_default_context(cadata=authority.ca.cert_pem.bytes().decode())
        self.kubeconfig = authority.directory / f"{name.replace(':', '-') or 'anonymous'}.kubeconfig"
        user: dict[str, str] = {}
        if name:
            leaf = authority.ca.issue_cert(common_name=name, organization_name=group, key_type=trustme.KeyType.ECDSA)
            leaf.configure_cert(self.context)
            user["client-certificate-data"] = base64.b64encode(leaf.cert_chain_pems[0].bytes()).decode()
            user["client-key-data"] = base64.b64encode(leaf.private_key_pem.bytes()).decode()
        ca = base64.b64encode(authority.ca.cert_pem.bytes()).decode()
        cluster = {"server": f"https://{address}", "certificate-authority-data": ca}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "c", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent), "PATH": os.defpath}
        return subprocess.run(
            [KUBECTL, *arguments],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def out(self, *arguments: str, stdin: str = "") -> str:
        done = self.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def raw(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = HTTPSConnection(self.host, self.port, context=self.context, timeout=DEADLINE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        payload = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, payload, {"Content-Type": "application/json"} | sent)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        return response.status, json.loads(raw) if raw.startswith(b"{") else raw.decode()

    def pods(self, namespace: str, app: str) -> list[dict[str, Any]]:
        status, body = self.raw("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}")
        assert status == 200, body
        return [pod for pod in body["items"] if "deletionTimestamp" not in pod["metadata"]]

    def running(self, namespace: str, app: str) -> set[str]:
        pods = self.pods(namespace, app)
        return {pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"}


def start(authority: Authority, config: dict[str, Any]) -> subprocess.Popen[str]:
    path = authority.directory / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return subprocess.Popen(
        [sys.executable, "-m", "services.dev_cluster", "--config", str(path)], stderr=subprocess.PIPE, text=True
    )


def stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode


def address_of(authority: Authority, process: subprocess.Popen[str]) -> str:
    file = authority.directory / "address"
    eventually(lambda: file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    return file.read_text().strip()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("dev-cluster"))


@pytest.fixture(scope="module")
def address(authority: Authority) -> Iterator[str]:
    (authority.directory / "rbac.yaml").write_text(RBAC)
    process = start(authority, authority.config(manifests=["rbac.yaml"]))
    try:
        yield address_of(authority, process)
    finally:
        assert stop(process) == 0


@pytest.fixture(scope="module")
def admin(authority: Authority, address: str) -> Client:
    return Client(authority, address, "admin", "system:masters")


@pytest.fixture(scope="module")
def core(authority: Authority, address: str) -> Client:
    return Client(authority, address, CORE)


@pytest.fixture(scope="module")
def nobody(authority: Authority, address: str) -> Client:
    return Client(authority, address, "nobody")


@pytest.fixture(scope="module")
def anonymous(authority: Authority, address: str) -> Client:
    return Client(authority, address)
