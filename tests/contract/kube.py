"""What tests of the cluster's adapter need: certificates, kubeconfigs, callers."""

import asyncio
import base64
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme
import yaml

from services.common.deadline import Deadline
from services.mcp_core.adapters.kubeconfig import ClusterSettings
from services.mcp_core.ports import Impersonation

CORE = "kubegate:core"
"""Common name of the core's client certificate."""


class Authority:
    """A CA with a server certificate for 127.0.0.1 and the core's client certificate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.server = self.ca.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
        self.core = self.ca.issue_cert(common_name=CORE, key_type=trustme.KeyType.ECDSA)
        self.ca_file, self.cert_file, self.key_file = (directory / name for name in ("ca.crt", "tls.crt", "tls.key"))
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.server.cert_chain_pems[0].write_to_path(str(self.cert_file))
        self.server.private_key_pem.write_to_path(str(self.key_file))

    def server_context(self) -> ssl.SSLContext:
        """For a server that takes client certificates of this CA."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def kubeconfig(self, server: str) -> dict[str, Any]:
        """A kubeconfig of the core with inline certificate data."""
        user = {
            "client-certificate-data": _b64(self.core.cert_chain_pems[0].bytes()),
            "client-key-data": _b64(self.core.private_key_pem.bytes()),
        }
        cluster = {"server": server, "certificate-authority-data": _b64(self.ca.cert_pem.bytes())}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "dev",
            "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "core"}}],
            "clusters": [{"name": "dev", "cluster": cluster}],
            "users": [{"name": "core", "user": user}],
        }

    def settings(self, server: str, name: str = "kubeconfig", **further: Any) -> ClusterSettings:
        """Settings with that kubeconfig in a file of the given name."""
        path = self.directory / name
        path.write_text(yaml.safe_dump(self.kubeconfig(server)))
        return ClusterSettings(name="dev", kubeconfig=path, **further)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def soon() -> Deadline:
    """A deadline that no test of a healthy cluster meets."""
    return Deadline.after(20)


def caller(role: str, subject: str = "alice") -> Impersonation:
    """A caller whose grant comes from a role."""
    return Impersonation(f"kubegate:kubegate:{subject}", (f"kubegate:role:{role}",), "request-1")


@asynccontextmanager
async def dev_cluster(authority: Authority, manifests: list[dict[str, Any]]) -> AsyncIterator[str]:
    """The embedded cluster as a process of its own, with its seed and these manifests; gives its address."""
    directory = authority.directory
    manifest_file, address_file, log = (directory / name for name in ("manifests.yaml", "address", "log"))
    manifest_file.write_text(yaml.safe_dump_all(manifests))
    files = {"cert_file": authority.cert_file, "key_file": authority.key_file, "client_ca_file": authority.ca_file}
    config = {
        "listen": "127.0.0.1:0",
        "address_file": str(address_file),
        "tls": {key: str(path) for key, path in files.items()},
        "manifests": [str(manifest_file)],
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.dev_cluster", "--config", str(directory / "config.yaml")),
            stdout=output,
            stderr=output,
        )
    try:
        while not address_file.exists():
            assert process.returncode is None, log.read_text()
            await asyncio.sleep(0.02)
        yield f"https://{address_file.read_text().strip()}"
    finally:
        process.terminate()
        await process.wait()
