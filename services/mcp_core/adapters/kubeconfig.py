"""Reads one kubeconfig, and only that one: no environment variable, no default file, no in-cluster guess.

Refused: plain HTTP, skipped certificate checks, credentials that run a program unless that is configured, and
credentials that nobody can use. Each refusal names the file and the next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from services.common.runtime_errors import ConfigError


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Where a cluster is and what may be read of it.

    kubeconfig: None is the cluster that this process runs in, by its service account. context: None is the file's
    current context. impersonate: whether callers are; else the core's own account does everything.
    max_response_bytes: more is an error, not an answer.
    """

    name: str
    kubeconfig: Path | None
    context: str | None = None
    allow_exec_plugins: bool = False
    impersonate: bool = True
    max_response_bytes: int = 32 * 1024 * 1024
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Selected:
    """The chosen context's parts, as a kubeconfig that holds nothing else."""

    kubeconfig: dict[str, Any]
    uses_exec: bool


def select(settings: ClusterSettings, path: Path) -> Selected:
    """The context of the settings in the kubeconfig at `path`, checked.

    Raises:
        ConfigError: the file cannot be read, does not fit, or holds what is refused.
    """
    data = _read(path)
    contexts = _named(path, data, "contexts")
    name = settings.context or data.get("current-context")
    if not isinstance(name, str) or name not in contexts:
        known = ", ".join(contexts) or "none"
        which = f"context {name!r} is not in it" if name else "it has no current-context"
        _refuse(path, f"{which} (contexts: {known}); set the cluster's `context` to one of them")
    context = _part(path, contexts[name], "context")
    cluster = _part(path, _referred(path, data, "clusters", context.get("cluster")), "cluster")
    user = _part(path, _referred(path, data, "users", context.get("user")), "user")
    _check_cluster(path, cluster)
    _check_user(path, user, settings.allow_exec_plugins)
    return Selected(
        kubeconfig={
            "current-context": "selected",
            "contexts": [{"name": "selected", "context": {"cluster": "selected", "user": "selected"}}],
            "clusters": [{"name": "selected", "cluster": cluster}],
            "users": [{"name": "selected", "user": user}],
        },
        uses_exec="exec" in user,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        _refuse(path, f"kubeconfig cannot be read: {error.strerror}; give the path of an existing kubeconfig")
    except (UnicodeDecodeError, yaml.YAMLError):
        _refuse(path, "kubeconfig is not valid YAML; `kubectl config view` shows how it should look")
    if not isinstance(data, dict) or "clusters" not in data:
        _refuse(path, "this is not a kubeconfig: it has no `clusters`")
    return data


def _check_cluster(path: Path, cluster: dict[str, Any]) -> None:
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith("https://"):
        _refuse(path, "the cluster's `server` must be an https:// address; kubegate speaks TLS only")
    if cluster.get("insecure-skip-tls-verify"):
        _refuse(path, "`insecure-skip-tls-verify` is refused; put the cluster's CA in `certificate-authority`")


def _check_user(path: Path, user: dict[str, Any], allow_exec_plugins: bool) -> None:
    if "auth-provider" in user:
        _refuse(path, "`auth-provider` is not supported; use a client certificate, a token or an exec plug-in")
    if "exec" in user and not allow_exec_plugins:
        _refuse(
            path,
            "its user runs a program to get credentials (`exec`), which is off; use a client certificate or a "
            "token, or set `allow_exec_plugins: true` if you trust that program",
        )
    certificate = ("client-certificate", "client-certificate-data")
    token = ("token", "tokenFile", "username", "exec")
    if not any(user.get(key) for key in (*certificate, *token)):
        _refuse(path, "its user has no credential: neither a client certificate nor a token")


def _named(path: Path, data: dict[str, Any], section: str) -> dict[str, Any]:
    entries = data.get(section)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
        _refuse(path, f"`{section}` must be a list of entries with a `name`")
    return {entry["name"]: entry for entry in entries}


def _referred(path: Path, data: dict[str, Any], section: str, name: Any) -> Any:
    entries = _named(path, data, section)
    if name not in entries:
        _refuse(path, f"the context names {name!r}, which is not among its `{section}`")
    return entries[name]


def _part(path: Path, entry: dict[str, Any], key: str) -> dict[str, Any]:
    part = entry.get(key)
    if not isinstance(part, dict):
        _refuse(path, f"entry {entry['name']!r} has no `{key}`")
    return part


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ConfigError(path, [problem])
