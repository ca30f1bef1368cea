"""A home for containers, each of which mounts its own directory of it: `python -m services.cli.containers`.

``prepare HOME`` issues certificates and writes secrets and configurations; it may be repeated. ``bootstrap HOME``
makes the first credentials once authn serves, and nothing where there are some. Every service listens on all
addresses of its container and finds the others by their names on the network (R9: the authorities' keys lie in a
directory that no service mounts).
"""

import asyncio
import secrets
import sys
from pathlib import Path
from typing import Any

from services.cli.home import HomeLayout, keep
from services.cli.pki import Authority, write_private
from services.cli.placing import CLUSTER, EDGE_HOSTS, MESH, Placing
from services.cli.stack import Stack
from services.cli.starting import bootstrap as make_credentials
from services.cli.up import fill
from services.common.runtime_errors import StartupError
from services.common.tls import server_name

EDGE_PORT = 8443
MESH_PORT = 7443
CLUSTER_PORT = 6443
SCRAPE_PORT = 9464
SAMPLE_RATIO = 0.1
DATABASE = "postgres"
"""Name of the database server on the network, and of its directory in the home."""
STORES = ("authn", "audit")
"""Services that keep what they store in the database, each under a role and in a database of its name."""


def placing(home: Path) -> Placing:
    """Every service under its name."""
    listen = dict.fromkeys(MESH, f"0.0.0.0:{MESH_PORT}")
    listen |= {CLUSTER: f"0.0.0.0:{CLUSTER_PORT}", "mcp-core": f"0.0.0.0:{EDGE_PORT}"}
    address = {name: f"{name}:{listening.rpartition(':')[2]}" for name, listening in listen.items()}
    settings: dict[str, dict[str, Any]] = {
        "authn": {"store": database_url(home, "authn"), "store_password_file": "store-password"},
        "audit": {"store": None, "database_url_file": "database-url"},
    }
    services = (*MESH, "mcp-core")
    return Placing(
        listen,
        address,
        dict.fromkeys(services, f"0.0.0.0:{SCRAPE_PORT}"),
        {name: f"https://{name}:{SCRAPE_PORT}/metrics" for name in services},
        (f"0.0.0.0:{MESH_PORT}", f"mcp-core:{MESH_PORT}"),
        {"endpoint": "collector:4317", "server_name": server_name("collector"), "sample_ratio": SAMPLE_RATIO},
        (*EDGE_HOSTS, CLUSTER),
        settings,
    )


def database_url(home: Path, service: str, password: str = "") -> str:
    """Where a service keeps its store: asked only where the mesh's authority has signed the server's name."""
    user = f"{service}:{password}" if password else service
    authority = home / service / "tls" / "ca.crt"
    return f"postgresql://{user}@{DATABASE}:5432/{service}?sslmode=verify-full&sslrootcert={authority}"


def prepare(home: Path) -> None:
    """Fills the home; running services read nothing of it that is half written.

    Raises:
        StartupError: an authority or a configuration in it is damaged.
    """
    layout = HomeLayout(home)
    fill(layout, EDGE_PORT, None, None, placing(home))
    given = layout.service("mcp-core") / "kubeconfig"
    if given.exists():
        # The embedded cluster stays as it is: its container starts in any case.
        fill(layout, EDGE_PORT, given, None, placing(home))
    mesh = Authority.open(layout.root / "ca" / "mesh", "")
    database = layout.service(DATABASE)
    keep(database / "tls", mesh, lambda: mesh.server(DATABASE, [DATABASE]), frozenset({DATABASE}))
    # The database gives its roles these passwords at every start (deploy/postgres/start.sh).
    passwords = {service: _password(database / f"{service}.password") for service in STORES}
    write_private(layout.service("authn") / "store-password", passwords["authn"].encode() + b"\n")
    write_private(
        layout.service("audit") / "database-url", database_url(home, "audit", passwords["audit"]).encode() + b"\n"
    )
    keep(layout.service("prometheus") / "tls", mesh, lambda: mesh.mesh("platform/prometheus"))
    collector = server_name("collector")
    keep(
        layout.service("collector") / "tls",
        mesh,
        lambda: mesh.server("collector", [collector]),
        frozenset({collector}),
    )
    _password(layout.service("grafana") / "admin-password")
    # What clients need is there for them without the authority's key beside it.
    layout.credentials.mkdir(mode=0o700, exist_ok=True)
    (layout.credentials / "ca.crt").write_bytes(layout.edge_ca.read_bytes())


def _password(path: Path) -> str:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, secrets.token_urlsafe(32).encode() + b"\n")
    return path.read_text(encoding="ascii").strip()


async def bootstrap(home: Path) -> None:
    """Writes the first credentials into HOME/credentials."""
    if (home / "credentials" / "admin.key").exists():
        return
    async with Stack.load(home) as stack:
        await make_credentials(stack)


def main() -> None:
    """Runs one of the two."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("prepare", "bootstrap"):
        raise SystemExit(__doc__)
    home = Path(sys.argv[2]).absolute()
    try:
        if sys.argv[1] == "prepare":
            prepare(home)
        else:
            asyncio.run(bootstrap(home))
    except StartupError as error:
        raise SystemExit(f"containers: {error}") from None


if __name__ == "__main__":
    main()
