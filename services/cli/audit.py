"""`kubegate audit ...`: reads the record over the audit service's RPCs, and verifies it without them."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from kubegate.audit.v1 import audit_pb2
from services.audit.verify import size_of
from services.cli.audit_calls import head, query_records, stream
from services.cli.audit_files import export, receipt, stats
from services.cli.audit_filter import (
    Action,
    Field,
    Namespace,
    RequestId,
    Resource,
    Result,
    Since,
    Text,
    Type,
    Until,
    User,
    event_filter,
)
from services.cli.audit_orphans import orphans
from services.cli.audit_retention import hold, release, retention, retire
from services.cli.audit_verify import verify
from services.cli.audit_witness import witness
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, printable, run
from services.cli.stack import Stack

app = typer.Typer(no_args_is_help=True, help="What happened: read, follow, export and verify the record.")


@app.command()
def query(
    type_: Type = "",
    user: User = "",
    action: Action = "",
    resource: Resource = "",
    namespace: Namespace = "",
    result: Result = "",
    request_id: RequestId = "",
    field: Field = None,
    text: Text = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 100,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Newest first.")] = False,
    cursor: Annotated[str, typer.Option("--cursor", help="Continue where an earlier query stopped.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show stored events, oldest first. A `?` after a user: whoever wrote the event says so, nobody has proven it."""
    filter_ = event_filter(type_, user, action, resource, namespace, result, request_id, field, text, since, until)
    request = audit_pb2.QueryRequest(filter=filter_, limit=limit, descending=newest_first, cursor=cursor)

    async def ask() -> tuple[list[audit_pb2.Record], str]:
        async with Stack.load(home) as stack:
            return await query_records(stack, request)

    records, following = run(ask())
    if as_json:
        emit_json([json.loads(record.canonical_json) for record in records])
    else:
        for record in records:
            print(_line(record.canonical_json))
    if following and len(records) < limit:
        typer.echo(
            f"kubegate: the log is large and not searched to its end; go on with --cursor {following}, or ask for less "
            "with --since and --until",
            err=True,
        )
    elif following:
        newest = "" if newest_first or cursor else "; the newest come with --newest-first"
        typer.echo(f"kubegate: there is more; continue with --cursor {following}{newest}", err=True)


@app.command()
def tail(
    type_: Type = "",
    user: User = "",
    action: Action = "",
    resource: Resource = "",
    namespace: Namespace = "",
    result: Result = "",
    request_id: RequestId = "",
    field: Field = None,
    text: Text = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="Earlier events to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on as events come.")] = True,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show the newest events and follow the log; with --json, one JSON object a line."""
    filter_ = event_filter(type_, user, action, resource, namespace, result, request_id, field, text)

    def show(record: bytes) -> None:
        print(record.decode() if as_json else _line(record), flush=True)

    async def work() -> None:
        async with Stack.load(home) as stack:
            position = size_of(await head(stack))
            if lines:
                request = audit_pb2.QueryRequest(filter=filter_, limit=lines, descending=True)
                for record in reversed((await query_records(stack, request))[0]):
                    show(record.canonical_json)
                    # Numbers of other logs say nothing about where this one goes on.
                    if not record.log_id:
                        position = max(position, record.sequence + 1)
            while follow:
                async for sequence, event in _tail(stack, filter_, position):
                    show(event)
                    position = sequence + 1

    try:
        run(work())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


async def _tail(stack: Stack, filter_: audit_pb2.Filter, position: int) -> AsyncIterator[tuple[int, bytes]]:
    """New records until the token ends."""
    async for response in stream(stack, "Tail", audit_pb2.TailRequest(filter=filter_, from_sequence=position)):
        for record in response.records:
            yield record.sequence, record.canonical_json


def _line(record: bytes) -> str:
    """One event for people, safe for a terminal: what is recorded was said by others."""
    event = json.loads(record)
    place = "/".join(part for part in (event["namespace"], event["resource"]) if part)
    phase = f" {event['phase']}" if "phase" in event else ""
    user = event["user"] or "-"
    asserted = "" if event["user_source"] == "verified" else "?"
    text = (
        f"{event['sequence']:>6}  {event['timestamp'][:23]}Z  {event['result']:<7}  {event['event_type']:<14}  "
        f"{user}{asserted}  {event['action']}{phase}  {place}  {event['error_message']}"
    )
    return printable(text.rstrip().replace("\n", "\ufffd"))


# After query and tail, which are wanted most and so stand first in --help.
for command in (stats, export, verify, receipt, witness, orphans, retention, hold, release, retire):
    app.command()(command)
