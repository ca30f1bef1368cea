"""A stack that knows clients of others: an authority of client certificates, and issuers of tokens."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import trustme
import yaml

from services.cli.pki import Authority
from tests.e2e.stack import RunningStack, kubegate


@dataclass(frozen=True)
class TrustingStack(RunningStack):
    """``clients`` in the home: ``ca.crt``, and ``<name>.pem`` with certificate and key of each client."""

    @classmethod
    def up(cls, home: Path, *options: str) -> TrustingStack:
        kubegate("up", "--prepare-only", "--home", str(home), "--port", "0")
        clients = home / "clients"
        authority, other = Authority.open(clients, "clients' CA"), trustme.CA()
        for name in ("robot", "other", "nobody"):
            pair = authority.client(name)
            (clients / f"{name}.pem").write_bytes(pair.certificate + pair.key)
        past = datetime.now(UTC) - timedelta(days=1)
        ended = other.issue_cert("robot.example", common_name="robot", not_after=past)
        ended.private_key_and_cert_chain_pem.write_to_path(clients / "ended.pem")
        (clients / "ca.crt").write_bytes(authority.certificate + other.cert_pem.bytes())
        robots = [
            {"name": "CN=robot", "identity": "robot", "roles": ["viewer"]},
            {"name": "CN=other", "identity": "other", "roles": ["viewer"]},
        ]
        _change(home / "authn" / "config.yaml", client_ca_file=str(clients / "ca.crt"), certificates=robots)
        _change(home / "mcp-core" / "config.yaml", client_ca_file=str(clients / "ca.crt"))
        kubegate("up", "--detach", "--home", str(home), *options)
        return cls(home)

    def certificate(self, name: str) -> Path:
        """A client's certificate with its key."""
        return self.home / "clients" / f"{name}.pem"

    def as_client(self, name: str, key: str | None = None) -> httpx.Client:
        """An HTTP client with a certificate, and perhaps a key."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(self.certificate(name))
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        return httpx.Client(base_url=self.base_url, verify=context, headers=headers, trust_env=False, timeout=30)


def _change(path: Path, **settings: Any) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**config, **settings}, sort_keys=False), encoding="utf-8")
