"""Kubeconfigs that can be used and those that cannot, each with the message that an operator reads (I2.11)."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.runtime_errors import StartupError
from services.mcp_core.adapters.kubeconfig import ClusterSettings
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from tests.contract.kube import Authority

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def user(config: dict[str, Any]) -> dict[str, Any]:
    return config["users"][0]["user"]  # type: ignore[no-any-return]


def cluster(config: dict[str, Any]) -> dict[str, Any]:
    return config["clusters"][0]["cluster"]  # type: ignore[no-any-return]


EXEC = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": ["marker"]}}


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update({"current-context": "prod"}), "context 'prod' is not in it (contexts: dev)"),
        (lambda config: config.pop("current-context"), "it has no current-context (contexts: dev)"),
        (lambda config: config.update(clusters=[]), "the context names 'dev', which is not among its `clusters`"),
        (lambda config: config.update(users="core"), "`users` must be a list"),
        (lambda config: cluster(config).update(server="http://127.0.0.1:1"), "must be an https:// address"),
        (lambda config: cluster(config).update({"insecure-skip-tls-verify": True}), "is refused; put the cluster's CA"),
        (lambda config: user(config).clear(), "no credential"),
        (lambda config: user(config).update({"auth-provider": {"name": "gcp"}}), "`auth-provider` is not supported"),
        (lambda config: user(config).update(EXEC), "set `allow_exec_plugins: true` if you trust that program"),
        (lambda config: user(config).update({"client-key-data": "A"}), "not valid base64"),
        (lambda config: user(config).update({"client-key-data": "AAAA"}), "not valid PEM"),
        (
            lambda config: config["users"][0].update(user={"client-certificate": "gone.crt"}),
            "gone.crt",
        ),
    ],
)
async def test_what_cannot_be_used_is_said_with_file_and_next_step(
    authority: Authority, tmp_path: Path, change: Change, message: str
) -> None:
    config = authority.kubeconfig("https://127.0.0.1:1")
    change(config)
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(StartupError) as refused:
        await KubernetesCluster.open(ClusterSettings("dev", path))
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert "PRIVATE KEY" not in str(refused.value)


@pytest.mark.req("I2.11")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "kubeconfig cannot be read: No such file"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
        (b"just text", "this is not a kubeconfig"),
    ],
)
async def test_what_is_no_kubeconfig(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=message):
        await KubernetesCluster.open(ClusterSettings("dev", path))


async def test_only_the_given_file_is_read(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(authority.settings("https://127.0.0.1:1", "other").kubeconfig))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    with pytest.raises(StartupError, match="cannot be read"):
        await KubernetesCluster.open(ClusterSettings("dev", tmp_path / "missing"))


async def test_inline_keys_do_not_stay_on_disk(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    settings = authority.settings("https://127.0.0.1:1")
    for _ in range(2):
        opened = await KubernetesCluster.open(settings)
        await opened.close()
    assert list(scratch.rglob("*")) == []


async def test_files_beside_the_kubeconfig_and_another_context(authority: Authority, tmp_path: Path) -> None:
    config = authority.kubeconfig("https://127.0.0.1:1")
    user(config).clear()
    user(config).update({"client-certificate": "core.crt", "client-key": "core.key"})
    authority.core.cert_chain_pems[0].write_to_path(str(tmp_path / "core.crt"))
    authority.core.private_key_pem.write_to_path(str(tmp_path / "core.key"))
    config["current-context"] = "elsewhere"
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    opened = await KubernetesCluster.open(ClusterSettings("dev", path, context="dev"))
    await opened.close()


async def test_an_exec_plugin_runs_only_when_configured(authority: Authority, tmp_path: Path) -> None:
    config = authority.kubeconfig("https://127.0.0.1:1")
    marker = tmp_path / "marker"
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(marker)]}
    user(config).clear()
    user(config)["exec"] = plugin
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(StartupError, match="allow_exec_plugins"):
        await KubernetesCluster.open(ClusterSettings("dev", path))
    assert not marker.exists()
    with pytest.raises(StartupError, match="gave no credential"):
        await KubernetesCluster.open(ClusterSettings("dev", path, allow_exec_plugins=True))
    assert marker.exists()
