"""What the cluster holds at start: what every cluster has, the sample workloads, and the manifests of its operator."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from services.common.runtime_errors import StartupError
from services.dev_cluster.bodies import YamlLoader
from services.dev_cluster.cluster import Cluster
from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import BY_KIND, NODE, Object, stored
from services.dev_cluster.rbac import MASTERS, User
from services.dev_cluster.writes import Options

AGE = 3 * 3600.0
_HERE = Path(__file__).parent
_RANDOM = "(random)"
_OPERATOR = Options(User("system:dev-cluster", (MASTERS,)), manager="dev-cluster", validation="Strict")


def plant(cluster: Cluster, *, sample: bool, manifests: Iterable[Path]) -> None:
    """Fills the store, then lives through the last hours at once, so that workloads have a past."""
    present = time.time()
    cluster.clock.moment = present - AGE
    _apply_file(cluster, _HERE / "bootstrap.yaml")
    if sample:
        _apply_file(cluster, _HERE / "seed.yaml")
    due = cluster.controllers.settle()
    while due < present:
        cluster.clock.moment = due
        due = cluster.controllers.settle()
    cluster.clock.moment = None
    for path in manifests:
        _apply_file(cluster, path)
    cluster.controllers.settle()


def _apply_file(cluster: Cluster, path: Path) -> None:
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), YamlLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartupError(f"cannot read manifest {path}: {error}") from error
    for document in documents:
        for obj in _items(document):
            _apply(cluster, path, obj)


def _items(document: Any) -> list[Any]:
    if document is None:
        return []
    if isinstance(document, dict) and isinstance(document.get("items"), list):
        return list(document["items"])
    return [document]


def _apply(cluster: Cluster, path: Path, obj: Any) -> None:
    """Creates an object, or replaces the one of its name."""
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise StartupError(f"manifest {path}: not a Kubernetes object: {str(obj)[:80]}")
    name = f"{obj.get('kind')} {obj['metadata'].get('name')}"
    kind = BY_KIND.get((str(obj.get("apiVersion")), str(obj.get("kind"))))
    if kind is None or kind not in stored():
        raise StartupError(f"manifest {path}: {name}: {obj.get('apiVersion')} {obj.get('kind')} is not served")
    namespace = obj["metadata"].get("namespace", "")
    if kind.namespaced and not namespace:
        raise StartupError(f"manifest {path}: {name}: metadata.namespace is missing")
    _fill_random(obj)
    try:
        old = cluster.store.get(kind, namespace, obj["metadata"].get("name", ""))
        if old is None:
            made = cluster.writer.create(kind, namespace, obj, _OPERATOR)
            if kind is NODE:
                cluster.store.update(kind, made | {"status": obj["status"]})
        else:
            cluster.writer.update(kind, old, obj, _OPERATOR)
    except ApiError as error:
        raise StartupError(f"manifest {path}: {name}: {error.message}") from error


def _fill_random(obj: Object) -> None:
    """Sample secrets are new in every process: no credential is built in."""
    values = obj.get("stringData") or {}
    for key, value in values.items():
        values[key] = value.replace(_RANDOM, secrets.token_urlsafe(18))
