"""`kubegate elevation ...`: temporary elevation through authz's RPCs (R15, R17). Who acts is who the key names."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from kubegate.authz.v1 import elevation_pb2, elevation_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table, fail, run
from services.cli.stack import PATIENCE, Stack
from services.common.call import PRINCIPAL_TOKEN_METADATA
from services.common.deadline import Deadline

app = typer.Typer(no_args_is_help=True, help="Ask for a role for a while; approve, end and list such requests.")

_DURATION = re.compile(r"([1-9]\d{0,4})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}

KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="API key of the person who acts; default: the admin's."),
]
ElevationId = Annotated[str, typer.Argument(metavar="ID", help="As `kubegate elevation list` shows it.")]


@app.command()
def request(
    role: Annotated[str, typer.Option("--role", metavar="R", help="The role to have for a while.")],
    justification: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; it is recorded.")],
    namespace: Annotated[list[str] | None, typer.Option("--namespace", metavar="N", help="Where; repeatable.")] = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", help="Everywhere.")] = False,
    duration: Annotated[str, typer.Option("--for", metavar="30m", help="How long, from the approval on.")] = "30m",
    key_file: KeyFile = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Ask for a role; somebody else has to approve it within an hour."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        fail(f"--for {duration!r}: write a number and s, m or h, as in 30m")
    if bool(namespace) == all_namespaces:
        fail("say where: --namespace N (may be repeated) or --all-namespaces")
    message = elevation_pb2.RequestElevationRequest(
        role=role,
        namespaces=identity_pb2.NamespaceScope(all=all_namespaces, patterns=namespace or []),
        justification=justification,
    )
    message.duration.FromSeconds(int(match[1]) * _SECONDS[match[2]])
    _show(_ask(home, key_file, "RequestElevation", message).elevation, as_json)


@app.command()
def approve(
    elevation_id: ElevationId, key_file: KeyFile = None, home: Home = DEFAULT_HOME, as_json: Json = False
) -> None:
    """Put a request of somebody else in force, if you hold all that it grants."""
    message = elevation_pb2.ApproveElevationRequest(id=elevation_id)
    _show(_ask(home, key_file, "ApproveElevation", message).elevation, as_json)


@app.command()
def revoke(
    elevation_id: ElevationId, key_file: KeyFile = None, home: Home = DEFAULT_HOME, as_json: Json = False
) -> None:
    """End an elevation now, or refuse a request."""
    message = elevation_pb2.RevokeElevationRequest(id=elevation_id)
    _show(_ask(home, key_file, "RevokeElevation", message).elevation, as_json)


@app.command(name="list")
def list_elevations(
    open_only: Annotated[bool, typer.Option("--open", help="Only those that wait or are in force.")] = False,
    key_file: KeyFile = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """List elevations, newest first."""
    message = elevation_pb2.ListElevationsRequest(open_only=open_only)
    elevations = [_described(each) for each in _ask(home, key_file, "ListElevations", message).elevations]
    if as_json:
        emit_json(elevations)
        return
    keys = ("id", "state", "person", "role", "where", "expires_at", "approved_by", "justification")
    rows = [tuple(str(each[key]) for key in keys) for each in elevations]
    columns = ("ID", "STATE", "PERSON", "ROLE", "WHERE", "UNTIL", "APPROVED BY", "WHY")
    emit_table(columns, rows, "no elevations")


def _ask(home: Path, key_file: Path | None, method: str, message: Any) -> Any:
    async def ask() -> Any:
        async with Stack.load(home) as stack:
            return await stack.peer("authz").unary(
                lambda channel: getattr(elevation_pb2_grpc.ElevationServiceStub(channel), method),
                message,
                Deadline.after(PATIENCE),
                ((PRINCIPAL_TOKEN_METADATA, await stack.token(key_file)),),
            )

    return run(ask())


def _show(elevation: elevation_pb2.Elevation, as_json: bool) -> None:
    described = _described(elevation)
    if as_json:
        emit_json(described)
    else:
        asked = described["state"] == "requested"
        print(
            f"{described['id']}: {described['state']}, role {described['role']} for {described['person']} "
            f"in {described['where']}, {'to be approved by' if asked else 'until'} {described['expires_at']}"
        )
        if asked:
            print(f"somebody else puts it in force: kubegate elevation approve {described['id']} --key-file FILE")


def _described(elevation: elevation_pb2.Elevation) -> dict[str, Any]:
    state = elevation_pb2.ElevationState.Name(elevation.state).removeprefix("ELEVATION_STATE_").lower()
    return {
        "id": elevation.id,
        "state": state,
        "person": f"{elevation.issuer}:{elevation.subject}",
        "tenant": elevation.tenant,
        "role": elevation.role,
        "where": "every namespace" if elevation.namespaces.all else ", ".join(elevation.namespaces.patterns),
        "seconds": elevation.duration.seconds,
        "justification": elevation.justification,
        "requested_at": elevation.requested_at.ToJsonString(),
        "expires_at": elevation.expires_at.ToJsonString(),
        "approved_by": elevation.approved_by,
        "revoked_by": elevation.revoked_by,
    }
