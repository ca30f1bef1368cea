"""`kubegate`: starts stacks and administers them."""

from importlib.metadata import version
from typing import Annotated

import typer

from services.cli import (
    audit,
    certs,
    cluster_rbac,
    compliance,
    elevation,
    issuers,
    keys,
    policy,
    signing_keys,
    status,
    up,
    users,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(up.down)
app.command()(status.status)
app.command()(up.restart)
app.add_typer(keys.app, name="keys")
app.add_typer(users.app, name="users")
app.add_typer(issuers.app, name="issuers")
app.add_typer(signing_keys.app, name="signing-keys")
app.add_typer(policy.app, name="policy")
app.add_typer(elevation.app, name="elevation")
app.add_typer(audit.app, name="audit")
app.add_typer(compliance.app, name="compliance")
app.add_typer(certs.app, name="certs")
app.add_typer(cluster_rbac.app, name="cluster")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kubegate {version('kubegate')}")
        raise typer.Exit


@app.callback()
def kubegate(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The gate between AI agents and Kubernetes: authenticated, decided, recorded, and only then executed.

    Start with `kubegate up`. Commands ask the stack in --home or KUBEGATE_HOME,
    as the holder of the key in the file KUBEGATE_KEY_FILE, else as administrator.
    """


def main() -> None:
    """Entry point of the `kubegate` command."""
    app(prog_name="kubegate")
