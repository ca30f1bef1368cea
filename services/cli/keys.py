"""`kubegate keys ...`: API keys of a running stack, through authn's RPCs, never its store (R15)."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.timestamp_pb2 import Timestamp

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.authz.policy.permissions import GRANTABLE, explain_malformed
from services.cli.administration import call, warn_of_roles
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table, fail

app = typer.Typer(no_args_is_help=True, help="Create and administer API keys.")

_DURATION = re.compile(r"([1-9]\d{0,4})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `kubegate keys list` shows it.")]


@app.command()
def create(
    identity: Annotated[str, typer.Option(metavar="ID", help="Whom the key stands for.")],
    role: Annotated[list[str] | None, typer.Option(metavar="R", help="A role of the policy.")] = None,
    permission: Annotated[list[str] | None, typer.Option(metavar="P", help="A direct permission.")] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(metavar="N", help="A namespace or pattern: of direct permissions, cap of roles.")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", help="Every namespace, and outside them.")
    ] = False,
    tool: Annotated[list[str] | None, typer.Option(metavar="T", help="The only tools it may use.")] = None,
    tenant: Annotated[str, typer.Option(metavar="T", help="Tenant of the key.")] = "",
    expires: Annotated[str, typer.Option(metavar="30d", help="Lifetime: a number and m, h, d or w.")] = "",
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The only client certificate (PEM) it may be used with.")
    ] = None,
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    if permission and not namespace and not all_namespaces:
        fail("--permission needs to know where: add --namespace N (may be repeated) or --all-namespaces")
    for text in permission or []:
        if text not in GRANTABLE:
            fail(f"--permission: {explain_malformed(text)}")
    request = authn_pb2.CreateApiKeyRequest(
        identity=identity, roles=role or [], permissions=permission or [], tools=tool or [], tenant=tenant
    )
    if certificate is not None:
        request.certificate_sha256 = _fingerprint(certificate)
    if namespace or all_namespaces:
        request.namespaces.CopyFrom(identity_pb2.NamespaceScope(all=all_namespaces, patterns=namespace or []))
    if expires:
        request.expires_at.FromDatetime(datetime.now(UTC) + _duration(expires, "--expires"))
    response: authn_pb2.CreateApiKeyResponse = _call(home, lambda stub: stub.CreateApiKey, request)
    warn_of_roles(response.unknown_roles)
    if json_output:
        described = _described(response.api_key)
        emit_json({"id": described.pop("id"), "key": response.key, **described})
    else:
        print(response.key)
        typer.echo("Keep it now: it cannot be shown again.", err=True)


@app.command(name="list")
def list_keys(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """List keys, oldest first, without their secrets."""
    response: authn_pb2.ListApiKeysResponse = _call(home, lambda stub: stub.ListApiKeys, authn_pb2.ListApiKeysRequest())
    if json_output:
        emit_json([_described(key) for key in response.api_keys])
        return
    rows = [
        (
            key.id,
            key.identity,
            "enabled" if key.enabled else "disabled",
            ", ".join([*key.roles, *key.permissions]),
            "(all)" if key.namespaces.all else ", ".join(key.namespaces.patterns),
            _time(key, "expires_at") or "never",
            _time(key, "last_used_at") or "never",
        )
        for key in response.api_keys
    ]
    emit_table(("ID", "IDENTITY", "STATE", "GRANTS", "NAMESPACES", "EXPIRES", "LAST USED"), rows, "no keys")


@app.command()
def disable(key_id: KeyId, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Refuse a key from now on."""
    _set_enabled(home, key_id, False, json_output)


@app.command()
def enable(key_id: KeyId, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Accept a disabled key again."""
    _set_enabled(home, key_id, True, json_output)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="7d", help="How long the old key still works: a number and m, h, d or w, or 0.")
    ] = "7d",
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Make a key that takes the place of another one, and print it. The old one ends after the overlap."""
    seconds = 0 if overlap == "0" else int(_duration(overlap, "--overlap").total_seconds())
    request = authn_pb2.RotateApiKeyRequest(id=key_id, overlap_seconds=seconds)
    response: authn_pb2.RotateApiKeyResponse = _call(home, lambda stub: stub.RotateApiKey, request)
    if json_output:
        described = _described(response.api_key)
        replaced = _described(response.replaced)
        emit_json({"id": described.pop("id"), "key": response.key, **described, "replaces": replaced})
    else:
        print(response.key)
        ends = _time(response.replaced, "expires_at")
        typer.echo(f"Keep it now: it cannot be shown again. {key_id} works until {ends}.", err=True)


@app.command()
def prune(
    unused: Annotated[str, typer.Option(metavar="90d", help="Time without use: a number and m, h, d or w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which keys would go.")] = False,
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Delete the keys that were neither made nor used for that long."""
    seconds = int(_duration(unused, "--unused").total_seconds())
    request = authn_pb2.PruneApiKeysRequest(unused_seconds=seconds, dry_run=dry_run)
    response: authn_pb2.PruneApiKeysResponse = _call(home, lambda stub: stub.PruneApiKeys, request)
    if json_output:
        emit_json([_described(key) for key in response.api_keys])
        return
    rows = [(key.id, key.identity, _time(key, "last_used_at") or "never") for key in response.api_keys]
    emit_table(("ID", "IDENTITY", "LAST USED"), rows, "no key was unused for that long")


@app.command()
def delete(key_id: KeyId, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Delete a key for good."""
    _call(home, lambda stub: stub.DeleteApiKey, authn_pb2.DeleteApiKeyRequest(id=key_id))
    if json_output:
        emit_json({"id": key_id, "deleted": True})
    else:
        print(f"{key_id} is deleted")


def _set_enabled(home: Path, key_id: str, enabled: bool, json_output: bool) -> None:
    response: authn_pb2.SetApiKeyEnabledResponse = _call(
        home,
        lambda stub: stub.SetApiKeyEnabled,
        authn_pb2.SetApiKeyEnabledRequest(id=key_id, enabled=enabled),
    )
    if json_output:
        emit_json(_described(response.api_key))
    else:
        print(f"{key_id} is {'enabled' if response.api_key.enabled else 'disabled'}")


def _call(home: Path, method: Callable[[Any], Any], request: Any) -> Any:
    return call(home, lambda channel: method(authn_pb2_grpc.CredentialAdminServiceStub(channel)), request)


def _duration(text: str, option: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        fail(f"{option} {text!r}: write a number and m, h, d or w, as in 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _fingerprint(path: Path) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        fail(f"--certificate {path}: is no readable PEM certificate")
    return certificate.fingerprint(SHA256()).hex()


def _time(key: authn_pb2.ApiKey, field: str) -> str | None:
    stamp: Timestamp = getattr(key, field)
    return stamp.ToJsonString() if key.HasField(field) else None  # type: ignore[arg-type]


def _described(key: authn_pb2.ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "identity": key.identity,
        "roles": list(key.roles),
        "permissions": list(key.permissions),
        "namespaces": list(key.namespaces.patterns),
        "all_namespaces": key.namespaces.all,
        "tools": list(key.tools),
        "tenant": key.tenant,
        "certificate_sha256": key.certificate_sha256,
        "replaced_by": key.replaced_by,
        "enabled": key.enabled,
        "created_at": _time(key, "created_at"),
        "expires_at": _time(key, "expires_at"),
        "last_used_at": _time(key, "last_used_at"),
    }
