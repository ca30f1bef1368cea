"""`kubegate`: starts stacks and administers them."""

import typer

from services.cli import audit, certs, cluster_rbac, compliance, keys, policy, up

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The gate between AI agents and Kubernetes: authenticated, decided, recorded, and only then executed.",
)
app.command()(up.up)
app.command()(up.down)
app.command()(up.status)
app.command()(up.restart)
app.add_typer(keys.app, name="keys")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(compliance.app, name="compliance")
app.add_typer(certs.app, name="certs")
app.add_typer(cluster_rbac.app, name="cluster")


def main() -> None:
    """Entry point of the `kubegate` command."""
    app(prog_name="kubegate")
