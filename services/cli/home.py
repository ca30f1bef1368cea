"""The directory of a stack: what lies where, and how it is filled the first time.

Every step may be repeated: what is there stays, so that a second ``up`` starts from what is stored.
"""

import base64
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.authz.policy import PolicyError, load_policy
from services.cli.pki import Authority, KeyPair, days_left, names_of, usable, write_private
from services.cli.placing import CLUSTER, EDGE_HOSTS, LOOPBACK, Placing, free_port
from services.common.runtime_errors import StartupError
from services.common.tls import server_name

__all__ = ["CLUSTER", "EDGE_HOSTS", "LOOPBACK", "HomeLayout", "free_port", "prepare"]

SERVICES = ("audit", "authn", "authz", "mcp-core")
EMBEDDED_NAMESPACES = ("default", "development", "feature-x", "kube-system", "production", "staging")
EMBEDDED_KINDS = ("backups.demo.example.com",)
CORE_USER = "kubegate:core"
RENEW_BELOW_DAYS = 30
"""A start renews certificates that end sooner."""


@dataclass(frozen=True, slots=True)
class HomeLayout:
    """Paths below one home, all absolute."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.absolute())

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints.json"

    @property
    def operator(self) -> Path:
        return self.root / "operator"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def policy(self) -> Path:
        return self.root / "policy" / "rbac-policies.yaml"

    @property
    def edge_ca(self) -> Path:
        return self.root / "ca" / "edge" / "ca.crt"

    @property
    def audit_log(self) -> Path:
        return self.root / "audit" / "audit.log"

    @property
    def cluster_kubeconfig(self) -> Path:
        return self.root / CLUSTER / "kubeconfig"

    @property
    def cluster_rbac(self) -> Path:
        return self.root / CLUSTER / "rbac.yaml"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def service(self, name: str) -> Path:
        """The directory of one service; nothing in it belongs to another."""
        return self.root / name

    def config(self, name: str) -> Path:
        return self.service(name) / "config.yaml"

    def read_endpoints(self) -> dict[str, Any]:
        """What ``up`` wrote.

        Raises:
            StartupError: there is no stack in this home.
        """
        try:
            data: dict[str, Any] = json.loads(self.endpoints.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StartupError(
                f"no stack in {self.root}: start one with `kubegate up --home {self.root}`, or name another --home"
            ) from error
        return data


def prepare(
    layout: HomeLayout, *, edge_port: int, kubeconfig: Path | None, policy: Path | None, placing: Placing
) -> None:
    """Fills a home with authorities, certificates, secrets, the policy and one configuration per service.

    Raises:
        StartupError: a stored authority is damaged, or a given file cannot be read.
    """
    _place_policy(layout, policy)
    mesh = Authority.open(layout.root / "ca" / "mesh", "kubegate development mesh CA")
    edge = Authority.open(layout.root / "ca" / "edge", "kubegate development edge CA")
    for name in SERVICES:
        keep(layout.service(name) / "tls", mesh, partial(mesh.mesh, f"service/{name}"))
    keep(layout.operator, mesh, lambda: mesh.mesh("operator/admin"))
    keep(layout.service("mcp-core") / "edge", edge, lambda: edge.server("localhost", EDGE_HOSTS))
    if kubeconfig is None:
        core_kubeconfig = _prepare_cluster(layout, placing)
    else:
        core_kubeconfig = _given_kubeconfig(kubeconfig)
    _place_secrets(layout)
    for name, config in _configs(placing, edge_port, core_kubeconfig, layout.policy).items():
        _write_config(layout.config(name), {**config, **placing.settings.get(name, {})})
        _write_telemetry(layout.config(name), placing.scrape[name], placing.traces)


def _write_config(path: Path, ours: dict[str, Any]) -> None:
    """Writes what ``up`` decides, addresses and places, and keeps every other key that somebody has set."""
    theirs: Any = {}
    if path.exists():
        try:
            theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise StartupError(f"{path}: not valid YAML; correct it, or remove it to get a new one") from error
    kept = {key: value for key, value in theirs.items() if key not in ours} if isinstance(theirs, dict) else {}
    partial_path = path.with_suffix(".part")
    whole = {key: value for key, value in {**ours, **kept}.items() if value is not None}
    partial_path.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    partial_path.replace(path)


def _write_telemetry(path: Path, scrape: str, traces: Mapping[str, Any] | None) -> None:
    """Has a service listen for scrapes, and send spans where that is said; whatever else somebody has set stays."""
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    telemetry = dict(config["telemetry"]) if isinstance(config.get("telemetry"), dict) else {}
    telemetry["metrics"] = {**(telemetry.get("metrics") or {}), "listen": scrape}
    if traces:
        telemetry["traces"] = {**(telemetry.get("traces") or {}), **traces}
    elif traces is not None:
        telemetry.pop("traces", None)
    _write_config(path, {**config, "telemetry": telemetry})


def keep(directory: Path, authority: Authority, issue: Callable[[], KeyPair], hosts: Set[str] = frozenset()) -> None:
    """Issues a certificate unless a usable one for these host names is there and does not end soon."""
    usable_now = usable(directory, authority.certificate) and hosts <= names_of(directory / "tls.crt")
    if not usable_now or days_left(directory / "tls.crt") < RENEW_BELOW_DAYS:
        issue().write(directory, authority.certificate)


def _place_policy(layout: HomeLayout, policy: Path | None) -> None:
    layout.policy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if policy is not None:
        # Only what is valid takes the place of what is there.
        try:
            load_policy(policy)
        except PolicyError as error:
            raise StartupError(f"{error}\nThe home keeps the policy that it has.") from error
        copy = layout.policy.with_suffix(".part")
        shutil.copyfile(policy, copy)
        copy.replace(layout.policy)
    elif not layout.policy.exists():
        layout.policy.write_bytes(default_policy().read_bytes())


def default_policy() -> Path:
    """The policy that a first ``up`` starts from."""
    return Path(str(resources.files("services"))).parent / "configs" / "rbac-policies.yaml"


def _place_secrets(layout: HomeLayout) -> None:
    for name in ("pepper", "kek", "bootstrap-token"):
        path = layout.service("authn") / name
        if not path.exists():
            write_private(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
    core = layout.service("mcp-core")
    for path in (layout.service("audit") / "mask.key", core / "sealing.key"):
        if not path.exists():
            write_private(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")
    signing_key = layout.service("audit") / "signing.key"
    if not signing_key.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(signing_key, pem)


def _prepare_cluster(layout: HomeLayout, placing: Placing) -> Path:
    directory = layout.service(CLUSTER)
    authority = Authority.open(layout.root / "ca" / CLUSTER, "kubegate embedded cluster CA")
    hosts = placing.cluster_hosts
    keep(directory / "tls", authority, lambda: authority.server("embedded-cluster", hosts), frozenset(hosts))
    keep(directory / "admin", authority, lambda: authority.client("admin", ["system:masters"]))
    core = layout.service("mcp-core") / "cluster"
    keep(core, authority, lambda: authority.client(CORE_USER))
    server = f"https://{placing.address[CLUSTER]}"
    ca = authority.certificate
    write_private(layout.cluster_kubeconfig, _kubeconfig(server, ca, directory / "admin", "admin"))
    write_private(core / "kubeconfig", _kubeconfig(server, ca, core, CORE_USER))
    config = {
        "listen": placing.listen[CLUSTER],
        "tls": {
            "cert_file": str(directory / "tls" / "tls.crt"),
            "key_file": str(directory / "tls" / "tls.key"),
            "client_ca_file": str(directory / "tls" / "ca.crt"),
        },
        "manifests": [str(layout.cluster_rbac)],
        "seed": True,
    }
    _write_config(layout.config(CLUSTER), {**config, **placing.settings.get(CLUSTER, {})})
    return Path("cluster/kubeconfig")


def _given_kubeconfig(path: Path) -> Path:
    if not os.access(path, os.R_OK):
        raise StartupError(f"{path}: the kubeconfig cannot be read; name one that exists with --kubeconfig")
    return path.absolute()


def _kubeconfig(server: str, ca: bytes, directory: Path, user: str) -> bytes:
    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kubegate",
        "clusters": [{"name": "kubegate", "cluster": {"server": server, "certificate-authority-data": encoded(ca)}}],
        "contexts": [{"name": "kubegate", "context": {"cluster": "kubegate", "user": user}}],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": encoded((directory / "tls.crt").read_bytes()),
                    "client-key-data": encoded((directory / "tls.key").read_bytes()),
                },
            }
        ],
    }
    return yaml.safe_dump(document, sort_keys=False).encode()


def _configs(placing: Placing, edge_port: int, kubeconfig: Path, policy: Path) -> dict[str, dict[str, Any]]:
    tls = {"cert_file": "tls/tls.crt", "key_file": "tls/tls.key", "ca_file": "tls/ca.crt"}

    def listen(name: str) -> dict[str, Any]:
        return {"listen": placing.listen[name], "tls": tls}

    def peer(name: str) -> dict[str, str]:
        return {"address": placing.address[name], "server_name": server_name(name)}

    return {
        "authn": {
            **listen("authn"),
            "audit": peer("audit"),
            "authz": peer("authz"),
            "store": "authn.db",
            "pepper_file": "pepper",
            "kek_file": "kek",
            "bootstrap_token_file": "bootstrap-token",
        },
        "authz": {
            **listen("authz"),
            "authn": peer("authn"),
            "audit": peer("audit"),
            "policy": str(policy),
            "store": "authz.db",
        },
        "audit": {
            **listen("audit"),
            "authn": peer("authn"),
            "authz": peer("authz"),
            "store": "audit.db",
            "mirror": "audit.log",
            "checkpoint": "checkpoint",
            "signing_key_file": "signing.key",
            "mask_key_file": "mask.key",
        },
        "mcp-core": {
            "listen": placing.listen["mcp-core"],
            "health_listen": placing.core_health[0],
            "base_url": f"https://localhost:{edge_port}",
            "tls": {"cert_file": "edge/tls.crt", "key_file": "edge/tls.key"},
            "mesh": tls,
            "authn": peer("authn"),
            "authz": peer("authz"),
            "audit": peer("audit"),
            "cluster": {"name": "default", "kubeconfig": str(kubeconfig)},
            "sealing_key_file": "sealing.key",
            # What earlier homes have, and the core no longer knows: None takes it out of the file.
            "confirmation_key_file": None,
            "request_state_key_files": None,
        },
    }
