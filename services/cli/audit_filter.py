"""The options by which `kubegate audit` and `kubegate compliance` choose events."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from kubegate.audit.v1 import audit_pb2
from services.cli.output import fail

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Type = Annotated[str, typer.Option("--type", help="Kind: authentication, authorization, mcp_request, admin ...")]
User = Annotated[str, typer.Option("--user", help="Exact user.")]
Action = Annotated[str, typer.Option("--action", help="Exact action, such as scale_deployment.")]
Resource = Annotated[str, typer.Option("--resource", help="Exact resource, such as deployments/nginx.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Exact namespace.")]
Result = Annotated[str, typer.Option("--result", help="success, failure, error or unknown.")]
RequestId = Annotated[str, typer.Option("--request-id", help="All events of one request.")]
Field = Annotated[
    list[str] | None,
    typer.Option(
        "--field", metavar="PATH=VALUE", help="Any field of the record, such as decision.rule or metadata.tool."
    ),
]
Text = Annotated[str, typer.Option("--text", help="Part of a metadata value or error message.")]
Since = Annotated[str, typer.Option("--since", help="At or after: RFC 3339, or 15m, 2h, 7d ago.")]
Until = Annotated[str, typer.Option("--until", help="Before: RFC 3339, or 15m, 2h, 7d ago.")]


def event_filter(
    type_: str,
    user: str,
    action: str,
    resource: str,
    namespace: str,
    result: str,
    request_id: str,
    field: list[str] | None = None,
    text: str = "",
    since: str = "",
    until: str = "",
) -> audit_pb2.Filter:
    """What the options choose; ends the command where one is malformed."""
    chosen = audit_pb2.Filter(
        event_type=_number("--type", audit_pb2.EventType, "EVENT_TYPE_", type_),
        user=user,
        action=action,
        resource=resource,
        namespace=namespace,
        result=_number("--result", audit_pb2.Result, "RESULT_", result),
        request_id=request_id,
        text=text,
    )
    values: dict[str, list[str]] = {}
    for pair in field or ():
        path, equals, value = pair.partition("=")
        if not equals or not path:
            fail(f"--field: {pair!r} is not PATH=VALUE")
        values.setdefault(path, []).append(value)
    for path, each in values.items():
        chosen.fields.add(path=path, values=each)
    for name, moment_text in (("since", since), ("until", until)):
        if moment_text:
            getattr(chosen, name).FromDatetime(moment(f"--{name}", moment_text))
    return chosen


def _number(option: str, enum: Any, prefix: str, name: str) -> Any:
    """The number of an enum's member; an empty name does not restrict."""
    members: list[str] = enum.keys()
    known = [member.removeprefix(prefix).lower() for member in members[1:]]
    if name and name not in known:
        fail(f"{option}: {name!r} is unknown; use one of {', '.join(known)}")
    return enum.Value(prefix + (name.upper() or "UNSPECIFIED"))


def moment(option: str, text: str) -> datetime:
    """RFC 3339, or an age such as 15m."""
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{option}: {text!r} is neither a time such as 2026-11-22T12:00:00Z nor an age such as 15m")
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
