"""`kubegate signing-keys ...`: the keys that sign our tokens, through authn's RPCs (R15)."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc
from services.cli.administration import call
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table

app = typer.Typer(
    no_args_is_help=True,
    help="Show the keys that sign our tokens, rotate them ahead of time, withdraw one that leaked.",
)


class Purpose(StrEnum):
    """What a key signs."""

    ACCESS = "access"
    PRINCIPAL = "principal"


_NUMBERS = {
    Purpose.ACCESS: admin_pb2.SIGNING_PURPOSE_ACCESS,
    Purpose.PRINCIPAL: admin_pb2.SIGNING_PURPOSE_PRINCIPAL,
}
_NAMES = {number: purpose.value for purpose, number in _NUMBERS.items()}


@app.command(name="list")
def list_keys(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """List next, current and previous keys."""
    request = admin_pb2.ListSigningKeysRequest()
    response: admin_pb2.ListSigningKeysResponse = _call(home, lambda stub: stub.ListSigningKeys, request)
    if json_output:
        emit_json([_described(key) for key in response.keys])
        return
    rows = [tuple(str(value) for value in _described(key).values()) for key in response.keys]
    emit_table(("KID", "SIGNS", "STATE", "FROM"), rows, "no keys")


@app.command()
def rotate(
    purpose: Annotated[Purpose, typer.Argument(help="What the key signs.")],
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """Make a new key sign from now on. What older keys signed stays valid until it ends."""
    request = admin_pb2.RotateSigningKeyRequest(purpose=_NUMBERS[purpose])
    response: admin_pb2.RotateSigningKeyResponse = _call(home, lambda stub: stub.RotateSigningKey, request)
    if json_output:
        emit_json(_described(response.key))
    else:
        print(f"{response.key.kid} signs {purpose.value} tokens now")


@app.command(context_settings={"ignore_unknown_options": True})  # One id in 64 begins with a dash.
def withdraw(
    kid: Annotated[str, typer.Argument(metavar="KID", help="As `kubegate signing-keys list` shows it.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
    home: Home = DEFAULT_HOME,
    json_output: Json = False,
) -> None:
    """End a key that others may hold, for good. What it signed is refused everywhere within a second, and whoever got a
    token by it signs in again. Where it signs now, the next key takes its place at once.

    If several leaked, begin with those that are `next`.
    """
    request = admin_pb2.WithdrawSigningKeyRequest(kid=kid, reason=reason)
    response: admin_pb2.WithdrawSigningKeyResponse = _call(home, lambda stub: stub.WithdrawSigningKey, request)
    if json_output:
        emit_json({"withdrawn": kid, "current": _described(response.current)})
    else:
        print(f"{kid} is withdrawn; {response.current.kid} signs {_NAMES[response.purpose]} tokens now")


def _call(home: Path, method: Callable[[Any], Any], request: Any) -> Any:
    return call(home, lambda channel: method(admin_pb2_grpc.SigningKeyAdminServiceStub(channel)), request)


def _described(key: admin_pb2.SigningKey) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "purpose": _NAMES.get(key.purpose, ""),
        "state": key.state,
        "active_from": key.active_from.ToJsonString(),
    }
