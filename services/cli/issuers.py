"""`kubegate issuers ...`: issuers whose tokens are accepted, through authn's RPCs (R15)."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc
from services.cli.administration import call
from services.cli.home import HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table, fail
from services.common.runtime_errors import StartupError

app = typer.Typer(no_args_is_help=True, help="Trust the access tokens of identity providers.")

Issuer = Annotated[str, typer.Argument(metavar="URL", help="The `iss` of the tokens.")]


@app.command()
def create(
    issuer: Issuer,
    audience: Annotated[
        str, typer.Option(metavar="AUD", help="The `aud` that its tokens must carry; default: the stack's MCP URL.")
    ] = "",
    jwks_uri: Annotated[str, typer.Option(metavar="URL", help="Where its keys are; else by discovery.")] = "",
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Its certification authorities, PEM.")] = None,
    token_type: Annotated[list[str] | None, typer.Option(metavar="TYP", help="Header typ; default at+jwt.")] = None,
    subject_claim: Annotated[str, typer.Option(metavar="CLAIM", help="Default sub.")] = "",
    groups_claim: Annotated[str, typer.Option(metavar="PATH", help="Such as realm_access.groups.")] = "",
    roles_claim: Annotated[str, typer.Option(metavar="PATH", help="Claim whose values --map-role maps.")] = "",
    map_role: Annotated[list[str] | None, typer.Option(metavar="THEIRS=OURS", help="May be repeated.")] = None,
    map_scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE=ROLE", help="A scope and the role that it gives; repeat.")
    ] = None,
    scope_claim: Annotated[str, typer.Option(metavar="PATH", help="Claim with the scopes; default scope.")] = "",
    initial_scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="What clients ask for first; default: every scope.")
    ] = None,
    default_role: Annotated[list[str] | None, typer.Option(metavar="R", help="A role that all of it have.")] = None,
    tenant_claim: Annotated[str, typer.Option(metavar="PATH", help="Claim with the tenant.")] = "",
    tenant: Annotated[str, typer.Option(metavar="T", help="Tenant of all of it.")] = "",
    permissions_claim: Annotated[str, typer.Option(metavar="PATH", help="Claim with permissions; else none.")] = "",
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Its tokens are of ServiceAccounts.")] = False,
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Accept the tokens of an issuer from now on."""
    roles = _pairs(map_role, "--map-role: write THEIRS=OURS, as in platform-admins=admin")
    scopes = _pairs(map_scope, "--map-scope: write SCOPE=ROLE, as in kube:read=viewer")
    if not audience:
        try:
            audience = HomeLayout(home).read_endpoints()["mcp_url"]
        except StartupError as error:
            fail(str(error))
    message = admin_pb2.TrustedIssuer(
        issuer=issuer,
        audience=audience,
        jwks_uri=jwks_uri,
        ca_pem=_read(ca) if ca else "",
        token_types=token_type or [],
        subject_claim=subject_claim,
        groups_claim=groups_claim,
        roles_claim=roles_claim,
        role_map=roles,
        scope_map=scopes,
        scope_claim=scope_claim,
        initial_scopes=initial_scope or [],
        default_roles=default_role or [],
        tenant_claim=tenant_claim,
        tenant=tenant,
        permissions_claim=permissions_claim,
        kubernetes=kubernetes,
    )
    request = admin_pb2.CreateIssuerRequest(issuer=message)
    response: admin_pb2.CreateIssuerResponse = _call(home, lambda stub: stub.CreateIssuer, request)
    _show(response.issuer, f"{issuer} is trusted", json_output)


@app.command(name="list")
def list_issuers(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """List trusted issuers, those of authn's configuration too."""
    request = admin_pb2.ListIssuersRequest()
    response: admin_pb2.ListIssuersResponse = _call(home, lambda stub: stub.ListIssuers, request)
    if json_output:
        emit_json([_described(each) for each in response.issuers])
        return
    rows = [
        (
            each.issuer,
            "enabled" if each.enabled else "disabled",
            each.audience,
            ", ".join(
                [
                    *each.default_roles,
                    *(f"{theirs}={ours}" for theirs, ours in sorted({**each.role_map, **each.scope_map}.items())),
                ]
            ),
            "configuration" if each.configured else "administrator",
        )
        for each in response.issuers
    ]
    emit_table(("ISSUER", "STATE", "AUDIENCE", "ROLES", "FROM"), rows, "no issuers")


@app.command()
def disable(issuer: Issuer, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Refuse an issuer's tokens from now on."""
    _set_enabled(home, issuer, False, json_output)


@app.command()
def enable(issuer: Issuer, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Accept a disabled issuer's tokens again."""
    _set_enabled(home, issuer, True, json_output)


@app.command()
def delete(issuer: Issuer, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """End the trust in an issuer."""
    _call(home, lambda stub: stub.DeleteIssuer, admin_pb2.DeleteIssuerRequest(issuer=issuer))
    if json_output:
        emit_json({"issuer": issuer, "deleted": True})
    else:
        print(f"{issuer} is not trusted any more")


def _set_enabled(home: Path, issuer: str, enabled: bool, json_output: bool) -> None:
    request = admin_pb2.SetIssuerEnabledRequest(issuer=issuer, enabled=enabled)
    response: admin_pb2.SetIssuerEnabledResponse = _call(home, lambda stub: stub.SetIssuerEnabled, request)
    _show(response.issuer, f"{issuer} is {'enabled' if enabled else 'disabled'}", json_output)


def _show(issuer: admin_pb2.TrustedIssuer, sentence: str, json_output: bool) -> None:
    if json_output:
        emit_json(_described(issuer))
    else:
        print(sentence)


def _pairs(texts: list[str] | None, otherwise: str) -> dict[str, str]:
    # A role has no "=", a scope may.
    pairs = [text.rpartition("=") for text in texts or []]
    if any(not theirs or not ours for theirs, _, ours in pairs):
        fail(otherwise)
    return {theirs: ours for theirs, _, ours in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        fail(f"--ca {path}: is no readable PEM file")


def _call(home: Path, method: Callable[[Any], Any], request: Any) -> Any:
    return call(home, lambda channel: method(admin_pb2_grpc.IssuerAdminServiceStub(channel)), request)


def _described(issuer: admin_pb2.TrustedIssuer) -> dict[str, Any]:
    described: dict[str, Any] = MessageToDict(
        issuer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return described
