"""As which account the core speaks to the cluster: exec plug-ins, the service account around it, its own."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.errors import (
    PermissionDenied,
)
from services.common.runtime_errors import ConfigError
from services.mcp_core.adapters.kubeconfig import ClusterSettings
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.ports import Impersonation, ObjectRef
from tests.contract.kube import Authority, caller, soon
from tests.contract.kube_server import PODS, Server, Thing

PLUGIN = """
import json, pathlib, sys
runs = pathlib.Path(sys.argv[1])
count = len(runs.read_text()) + 1 if runs.exists() else 1
runs.write_text("x" * count)
year = "2020" if count < 3 else "2999"
status = {"token": f"token-{count}", "expirationTimestamp": f"{year}-01-01T00:00:00Z"}
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


async def test_an_exec_plugin_is_asked_again_when_its_token_ends(
    authority: Authority, server: Server, tmp_path: Path
) -> None:
    config = authority.kubeconfig(server.url)
    script, path = tmp_path / "plugin.py", tmp_path / "kubeconfig"
    script.write_text(PLUGIN)
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(script), str(tmp_path / "runs")],
    }
    config["users"][0]["user"] = {"exec": plugin}
    path.write_text(yaml.safe_dump(config))
    cluster = await KubernetesCluster.open(ClusterSettings("dev", path, allow_exec_plugins=True))
    for _ in range(4):
        await cluster.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
    sent = [request.headers["Authorization"] for request in server.seen]
    assert sent == ["Bearer token-2", "Bearer token-3", "Bearer token-3", "Bearer token-3"]
    await cluster.close()


def inside(authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch, **further: Any) -> ClusterSettings:
    """Settings for a pod whose API server is `server`."""
    place = authority.directory / "serviceaccount"
    place.mkdir(exist_ok=True)
    (place / "token").write_text("first-token\n")
    (place / "ca.crt").write_bytes(authority.ca_file.read_bytes())
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    return ClusterSettings("inside", None, service_account=place, **further)


@pytest.mark.req("I7.3")
async def test_inside_a_cluster_the_service_account_speaks_and_its_renewed_token_is_used(
    authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = inside(authority, server, monkeypatch)
    opened = await KubernetesCluster.open(settings)
    try:
        await opened.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
        (settings.service_account / "token").write_text("second-token")
        loader: Any = opened._credentials
        loader.token_expires_at -= timedelta(minutes=2)
        await opened.session(None, soon()).list(ObjectRef(PODS, "default"), Thing)
    finally:
        await opened.close()
    assert [request.headers["Authorization"] for request in server.seen] == [
        "Bearer first-token",
        "Bearer second-token",
    ]
    assert server.seen[0].headers["Impersonate-Group"] == "kubegate:role:viewer"


@pytest.mark.req("I7.3")
async def test_a_kubeconfig_is_never_overridden_by_the_cluster_around(
    authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(authority, server, monkeypatch)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    opened = await KubernetesCluster.open(authority.settings(server.url))
    try:
        await opened.session(None, soon()).list(ObjectRef(PODS, "default"), Thing)
    finally:
        await opened.close()
    assert "Authorization" not in server.seen[0].headers


@pytest.mark.req("I7.3", "I2.11")
async def test_outside_a_cluster_in_cluster_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="in_cluster"):
        await KubernetesCluster.open(ClusterSettings("inside", None, service_account=tmp_path))


@pytest.mark.req("I7.3")
async def test_only_when_configured_the_cores_own_account_acts_and_then_for_our_callers_only(
    authority: Authority, server: Server
) -> None:
    opened = await KubernetesCluster.open(authority.settings(server.url, impersonate=False))
    try:
        await opened.session(caller("viewer"), soon()).list(ObjectRef(PODS, "default"), Thing)
        with pytest.raises(PermissionDenied):
            opened.session(Impersonation("system:admin", (), "r"), soon())
    finally:
        await opened.close()
    assert not [name for name in server.seen[0].headers if name.lower().startswith("impersonate")]
