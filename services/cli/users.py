"""`kubegate users ...`: users of a running stack, through authn's RPCs, never its store (R15)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.cli.administration import call, warn_of_roles
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table, fail

app = typer.Typer(no_args_is_help=True, help="Create and administer users, their passwords and second factors.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user, as `kubegate users list` shows it.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input instead of making one.")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new user.")],
    role: Annotated[list[str] | None, typer.Option(metavar="R", help="A role of the policy.")] = None,
    permission: Annotated[list[str] | None, typer.Option(metavar="P", help="A direct permission.")] = None,
    namespace: Annotated[
        list[str] | None, typer.Option(metavar="N", help="A namespace or pattern: of direct permissions, cap of roles.")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", help="Every namespace, and outside them.")
    ] = False,
    tenant: Annotated[str, typer.Option(metavar="T", help="Tenant of the user.")] = "",
    password_stdin: PasswordStdin = False,
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Create a user and print the password that was made. It cannot be shown again."""
    if permission and not namespace and not all_namespaces:
        fail("--permission needs to know where: add --namespace N (may be repeated) or --all-namespaces")
    request = admin_pb2.CreateUserRequest(
        name=name, roles=role or [], permissions=permission or [], tenant=tenant, password=_password(password_stdin)
    )
    if namespace or all_namespaces:
        request.namespaces.CopyFrom(identity_pb2.NamespaceScope(all=all_namespaces, patterns=namespace or []))
    response: admin_pb2.CreateUserResponse = _call(home, lambda stub: stub.CreateUser, request)
    warn_of_roles(response.unknown_roles)
    if json_output:
        emit_json({**_described(response.user), "password": response.password or None})
    elif response.password:
        print(response.password)
        typer.echo("Keep it now: it cannot be shown again.", err=True)
    else:
        print(f"{name} is created")


@app.command(name="list")
def list_users(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """List users by name."""
    response: admin_pb2.ListUsersResponse = _call(home, lambda stub: stub.ListUsers, admin_pb2.ListUsersRequest())
    described = [_described(user) for user in response.users]
    if json_output:
        emit_json(described)
        return
    rows = [
        (
            user["name"],
            "enabled" if user["enabled"] else "disabled",
            ", ".join([*user["roles"], *user["permissions"]]),
            "yes" if user["second_factor"] else "no",
            user["locked_until"] or "",
        )
        for user in described
    ]
    emit_table(("NAME", "STATE", "GRANTS", "SECOND FACTOR", "LOCKED UNTIL"), rows, "no users")


@app.command()
def disable(name: Name, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Refuse a user from now on, and end every token of the user."""
    _set_enabled(home, name, False, json_output)


@app.command()
def enable(name: Name, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Accept a disabled user again."""
    _set_enabled(home, name, True, json_output)


@app.command()
def delete(name: Name, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Delete a user for good."""
    _call(home, lambda stub: stub.DeleteUser, admin_pb2.DeleteUserRequest(name=name))
    if json_output:
        emit_json({"name": name, "deleted": True})
    else:
        print(f"{name} is deleted")


@app.command(name="reset-password")
def reset_password(
    name: Name, password_stdin: PasswordStdin = False, home: Home = DEFAULT_HOME, json_output: Json = False
) -> None:
    """Give a user another password, and end every token of the user."""
    request = admin_pb2.ResetPasswordRequest(name=name, password=_password(password_stdin))
    response: admin_pb2.ResetPasswordResponse = _call(home, lambda stub: stub.ResetPassword, request)
    if json_output:
        emit_json({"name": name, "password": response.password or None})
    else:
        print(response.password or f"{name} has another password")


@app.command(name="enrol-totp")
def enrol_totp(name: Name, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Begin a second factor: print its URI for an authenticator app, and recovery codes."""
    request = admin_pb2.EnrolTotpRequest(name=name)
    response: admin_pb2.EnrolTotpResponse = _call(home, lambda stub: stub.EnrolTotp, request)
    if json_output:
        emit_json({"name": name, "uri": response.uri, "recovery_codes": list(response.recovery_codes)})
        return
    print(response.uri, *response.recovery_codes, sep="\n")
    typer.echo(
        f"Keep them now: they cannot be shown again. Then `kubegate users confirm-totp {name} CODE` "
        "with a code of the device makes it count.",
        err=True,
    )


@app.command(name="confirm-totp")
def confirm_totp(
    name: Name,
    code: Annotated[str, typer.Argument(metavar="CODE", help="The code that the device shows.")],
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Make a second factor count."""
    request = admin_pb2.ConfirmTotpRequest(name=name, code=code)
    response: admin_pb2.ConfirmTotpResponse = _call(home, lambda stub: stub.ConfirmTotp, request)
    _show(response.user, f"{name} needs the second factor from now on", json_output)


@app.command(name="remove-totp")
def remove_totp(name: Name, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Take the second factor away, for a lost device."""
    request = admin_pb2.RemoveTotpRequest(name=name)
    response: admin_pb2.RemoveTotpResponse = _call(home, lambda stub: stub.RemoveTotp, request)
    _show(response.user, f"{name} has no second factor", json_output)


@app.command()
def unlock(name: Name, home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """End a lock-out."""
    request = admin_pb2.UnlockUserRequest(name=name)
    response: admin_pb2.UnlockUserResponse = _call(home, lambda stub: stub.UnlockUser, request)
    _show(response.user, f"{name} may try again", json_output)


def _set_enabled(home: Path, name: str, enabled: bool, json_output: bool) -> None:
    request = admin_pb2.SetUserEnabledRequest(name=name, enabled=enabled)
    response: admin_pb2.SetUserEnabledResponse = _call(home, lambda stub: stub.SetUserEnabled, request)
    _show(response.user, f"{name} is {'enabled' if enabled else 'disabled'}", json_output)


def _show(user: admin_pb2.User, sentence: str, json_output: bool) -> None:
    if json_output:
        emit_json(_described(user))
    else:
        print(sentence)


def _password(from_stdin: bool) -> str:
    """Never an argument: those are seen by every process of the machine."""
    if not from_stdin:
        return ""
    password = sys.stdin.readline().rstrip("\n")
    if not password:
        fail("--password-stdin: standard input holds no password")
    return password


def _call(home: Path, method: Callable[[Any], Any], request: Any) -> Any:
    return call(home, lambda channel: method(admin_pb2_grpc.UserAdminServiceStub(channel)), request)


def _described(user: admin_pb2.User) -> dict[str, Any]:
    return {
        "name": user.name,
        "roles": list(user.roles),
        "permissions": list(user.permissions),
        "namespaces": list(user.namespaces.patterns),
        "all_namespaces": user.namespaces.all,
        "tenant": user.tenant,
        "enabled": user.enabled,
        "created_at": user.created_at.ToJsonString(),
        "second_factor": user.totp,
        "locked_until": user.locked_until.ToJsonString() if user.HasField("locked_until") else None,
    }
