"""`kubegate certs`: the certificates of a home."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from services.cli.home import EDGE_HOSTS, SERVICES, HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, emit_table, fail
from services.cli.pki import Authority
from services.common.runtime_errors import StartupError

app = typer.Typer(no_args_is_help=True, help="Certificates of the mesh and the edge.")


def _mesh(home: Path) -> Authority:
    directory = HomeLayout(home).root / "ca" / "mesh"
    if not directory.exists():
        fail(f"no certificate authority in {directory}; make one with `kubegate certs init --home {home}`")
    try:
        return Authority.open(directory, "")
    except StartupError as error:
        fail(str(error))


@app.command()
def init(home: Home = DEFAULT_HOME) -> None:
    """Make the mesh's certificate authority, unless it exists."""
    directory = HomeLayout(home).root / "ca" / "mesh"
    try:
        Authority.open(directory, "kubegate development mesh CA")
    except StartupError as error:
        fail(str(error))
    print(directory / "ca.crt")


@app.command()
def issue(
    identity: Annotated[str, typer.Argument(help="SPIFFE path: platform/<name>, operator/<name>, service/<name>.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for tls.crt, tls.key and ca.crt.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Issue a certificate of the mesh, for instance for another platform service."""
    kind, _, name = identity.partition("/")
    if kind not in ("platform", "operator", "service") or not name.replace("-", "").isalnum() or not name.isascii():
        fail(f"{identity!r} is no identity: use platform/<name>, operator/<name> or service/<name>")
    if (out / "tls.crt").exists():
        fail(f"{out} holds a certificate already; name an empty directory")
    authority = _mesh(home)
    authority.mesh(identity).write(out, authority.certificate)
    print(out.absolute() / "tls.crt")


@app.command()
def rotate(home: Home = DEFAULT_HOME) -> None:
    """Replace the certificates of every service and of the operator; running services follow without a restart."""
    layout = HomeLayout(home)
    authority = _mesh(home)
    for name in SERVICES:
        authority.mesh(f"service/{name}").write(layout.service(name) / "tls", authority.certificate)
    authority.mesh("operator/admin").write(layout.operator, authority.certificate)
    edge = Authority.open(layout.root / "ca" / "edge", "kubegate development edge CA")
    edge.server("localhost", EDGE_HOSTS).write(layout.service("mcp-core") / "edge", edge.certificate)
    print(f"rotated: {', '.join(SERVICES)}, operator; the edge shows its new one after `kubegate restart mcp-core`")


@app.command()
def show(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """List the certificates of a home and when they end. Exit code 1 when one has ended."""
    layout = HomeLayout(home)
    now = datetime.now(UTC)
    rows = []
    for path in sorted(layout.root.glob("**/*.crt")):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        end = certificate.not_valid_after_utc
        rows.append(
            {
                "file": str(path.relative_to(layout.root)),
                "subject": certificate.subject.rfc4514_string(),
                "not_after": end.isoformat(),
                "days_left": (end - now).days,
            }
        )
    if json_output:
        emit_json(rows)
    else:
        emit_table(
            ("FILE", "SUBJECT", "NOT AFTER", "DAYS LEFT"),
            [tuple(str(value) for value in row.values()) for row in rows],
            f"no certificates in {layout.root}",
        )
    if any(datetime.fromisoformat(str(row["not_after"])) < now for row in rows):
        raise typer.Exit(NEGATIVE)
