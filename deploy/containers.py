"""Fits a home that `kubegate up --prepare-only` made to containers, and makes its first credentials.

Usage: containers.py addresses HOME   every service listens on all addresses of its container and finds the
                                      others by their names on the network; may be repeated
       containers.py bootstrap HOME   the first administrator, once authn serves; does nothing when there is one

The embedded cluster keeps its loopback address: it shares the network of mcp-core, which alone may reach it.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import yaml

PEERS = ("authn", "authz", "audit")
MESH_PORT = 7443


def addresses(home: Path) -> None:
    """Rewrites the configurations and endpoints.json."""
    for name in (*PEERS, "mcp-core"):
        path = home / name / "config.yaml"
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        port = MESH_PORT if name in PEERS else config["listen"].rpartition(":")[2]
        config["listen"] = f"0.0.0.0:{port}"
        for peer in PEERS:
            if peer in config:
                config[peer]["address"] = f"{peer}:{MESH_PORT}"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    path = home / "endpoints.json"
    endpoints = json.loads(path.read_text(encoding="utf-8"))
    endpoints["services"] |= {peer: f"{peer}:{MESH_PORT}" for peer in PEERS}
    path.write_text(json.dumps(endpoints, indent=2) + "\n", encoding="utf-8")


async def bootstrap(home: Path) -> None:
    """Writes the first credentials into HOME/credentials."""
    from services.cli.stack import Stack
    from services.cli.starting import bootstrap as make_credentials

    if (home / "credentials" / "admin.key").exists():
        return
    async with Stack.load(home) as stack:
        await make_credentials(stack)


def main() -> None:
    """Runs one of the two."""
    command, home = sys.argv[1], Path(sys.argv[2]).absolute()
    if command == "addresses":
        addresses(home)
    elif command == "bootstrap":
        asyncio.run(bootstrap(home))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
