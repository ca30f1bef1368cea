"""`kubegate audit ...`: reads the record over the audit service's RPCs, and verifies it without them."""

import base64
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from grpc import aio

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.audit.verify import (
    Altered,
    Leaves,
    Report,
    Unreadable,
    log_files,
    prove,
    public_key,
    size_of,
    verify_lines,
    verify_store,
)
from services.cli.home import HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import MISUSE, NEGATIVE, emit_json, fail, run
from services.cli.pki import write_private
from services.cli.stack import Stack
from services.common.deadline import Deadline

app = typer.Typer(no_args_is_help=True, help="What happened: read, follow, export and verify the record.")

CALL_SECONDS = 30.0
"""Time for one answer."""

EXPORT_PAGE = 10_000
"""Events asked for at once by an export; each question shows a fresh token."""

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Type = Annotated[str, typer.Option("--type", help="Kind: authentication, authorization, mcp_request, admin ...")]
User = Annotated[str, typer.Option("--user", help="Exact user.")]
Action = Annotated[str, typer.Option("--action", help="Exact action, such as scale_deployment.")]
Resource = Annotated[str, typer.Option("--resource", help="Exact resource, such as deployments/nginx.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Exact namespace.")]
Result = Annotated[str, typer.Option("--result", help="success, failure, error or unknown.")]
RequestId = Annotated[str, typer.Option("--request-id", help="All events of one request.")]


@app.command()
def query(
    type_: Type = "",
    user: User = "",
    action: Action = "",
    resource: Resource = "",
    namespace: Namespace = "",
    result: Result = "",
    request_id: RequestId = "",
    since: Annotated[str, typer.Option("--since", help="At or after: RFC 3339, or 15m, 2h, 7d ago.")] = "",
    until: Annotated[str, typer.Option("--until", help="Before: RFC 3339, or 15m, 2h, 7d ago.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 100,
    newest_first: Annotated[bool, typer.Option("--newest-first", help="Newest first.")] = False,
    cursor: Annotated[str, typer.Option("--cursor", help="Continue where an earlier query stopped.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show stored events, oldest first."""
    filter_ = _filter(type_, user, action, resource, namespace, result, request_id)
    for name, value in (("since", since), ("until", until)):
        if value:
            getattr(filter_, name).FromDatetime(_moment(name, value))
    request = audit_pb2.QueryRequest(filter=filter_, limit=limit, descending=newest_first, cursor=cursor)

    async def ask() -> tuple[list[bytes], str]:
        async with Stack.load(home) as stack:
            return await _query(stack, request)

    records, following = run(ask())
    if as_json:
        emit_json([json.loads(record) for record in records])
    else:
        for record in records:
            print(_line(record))
    if following:
        typer.echo(f"kubegate: there is more; continue with --cursor {following}", err=True)


@app.command()
def tail(
    type_: Type = "",
    user: User = "",
    action: Action = "",
    resource: Resource = "",
    namespace: Namespace = "",
    result: Result = "",
    request_id: RequestId = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="Earlier events to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on as events come.")] = True,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show the newest events and follow the log; with --json, one JSON object a line."""
    filter_ = _filter(type_, user, action, resource, namespace, result, request_id)

    def show(record: bytes) -> None:
        print(record.decode() if as_json else _line(record), flush=True)

    async def work() -> None:
        async with Stack.load(home) as stack:
            position = size_of(await _head(stack))
            if lines:
                request = audit_pb2.QueryRequest(filter=filter_, limit=lines, descending=True)
                for record in reversed((await _query(stack, request))[0]):
                    show(record)
                    position = max(position, json.loads(record)["sequence"] + 1)
            while follow:
                async for sequence, record in _tail(stack, filter_, position):
                    show(record)
                    position = sequence + 1

    try:
        run(work())
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def export(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="JSON Lines; default: standard output.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Write the whole log as JSON Lines, and beside it FILE.proof, so that the export can be verified anywhere."""

    async def work() -> dict[str, Any]:
        async with Stack.load(home) as stack:
            return await _export(stack, file)

    try:
        summary = run(work())
    except (Altered, Unreadable) as error:
        fail(str(error), NEGATIVE if isinstance(error, Altered) else MISUSE)
    if file is not None and as_json:
        emit_json(summary)
    elif file is not None:
        print(f"{summary['events']} events in {file}; verify them with `kubegate audit verify {file}`")


@app.command()
def verify(
    export_file: Annotated[
        Path | None, typer.Argument(metavar="EXPORT", help="An export or a copy of the mirror; default: the store.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="The log's public key (name+hash+key); default: the home's.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Prove that no event was altered, removed or reordered. Needs no running service.

    Exit codes: 0 intact, 1 altered (the first is named), 2 unreadable.
    """
    try:
        if export_file is None:
            log = log_files(HomeLayout(home).config("audit"), key)
            report = verify_store(log.store, log.verifier, log.mirror, log.heads)
        else:
            report = _verify_export(export_file, key, home)
    except Altered as error:
        _verdict(as_json, {"intact": False, "sequence": error.sequence, "problem": str(error)}, NEGATIVE)
    except Unreadable as error:
        _verdict(as_json, {"intact": None, "problem": str(error)}, MISUSE)
    root = base64.b64encode(report.root).decode()
    if as_json:
        counts = {"events": report.events, "checkpoints": report.checkpoints, "mirrored": report.mirrored}
        emit_json({"intact": True, **counts, "root": root})
    else:
        mirror = f", {report.mirrored} lines in the mirror" if report.mirrored is not None else ""
        print(f"intact: {report.events} events, signed roots checked: {report.checkpoints}{mirror}; root {root}")


def _verdict(as_json: bool, verdict: dict[str, Any], code: int) -> NoReturn:
    if as_json:
        emit_json(verdict)
        raise typer.Exit(code)
    fail(f"{'altered' if code == NEGATIVE else 'cannot tell'}: {verdict['problem']}", code)


def _verify_export(file: Path, key: str, home: Path) -> Report:
    """Against the proof beside the export where there is one, else against the home's store."""
    beside = file.with_name(file.name + ".proof")
    config = HomeLayout(home).config("audit")
    if beside.exists():
        verifier = public_key(key) if key else log_files(config).verifier
        leaves = Leaves.of_proof(_read(beside), verifier)
    else:
        log = log_files(config, key)
        leaves = Leaves.of_store(log.store, log.verifier)
    try:
        with file.open("rb") as lines:
            return verify_lines(lines, leaves)
    except OSError as error:
        raise Unreadable(f"{file}: cannot be read: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: cannot be read") from error


async def _head(stack: Stack) -> str:
    """The newest signed tree head."""
    response: audit_pb2.GetCheckpointResponse = await stack.peer("audit").unary(
        lambda channel: audit_pb2_grpc.AuditServiceStub(channel).GetCheckpoint,
        audit_pb2.GetCheckpointRequest(),
        Deadline.after(CALL_SECONDS),
    )
    return response.checkpoint


async def _query(stack: Stack, request: audit_pb2.QueryRequest) -> tuple[list[bytes], str]:
    records: list[bytes] = []
    cursor = ""
    metadata = await stack.admin_metadata()
    audit = stack.peer("audit")
    call = audit_pb2_grpc.AuditServiceStub(audit.channel()).Query(request, timeout=CALL_SECONDS, metadata=metadata)
    try:
        async for response in call:
            records += [record.canonical_json for record in response.records]
            cursor = response.next_cursor
    except aio.AioRpcError as error:
        raise audit.error(error) from None
    return records, cursor


async def _tail(stack: Stack, filter_: audit_pb2.Filter, position: int) -> AsyncIterator[tuple[int, bytes]]:
    """New records until the token ends."""
    metadata = await stack.admin_metadata()
    audit = stack.peer("audit")
    request = audit_pb2.TailRequest(filter=filter_, from_sequence=position)
    try:
        async for response in audit_pb2_grpc.AuditServiceStub(audit.channel()).Tail(request, metadata=metadata):
            for record in response.records:
                yield record.sequence, record.canonical_json
    except aio.AioRpcError as error:
        raise audit.error(error) from None


async def _export(stack: Stack, file: Path | None) -> dict[str, Any]:
    """Everything under the tree head of this moment. Files appear whole or not at all."""
    note = await _head(stack)
    size = size_of(note)
    events: list[bytes] = []
    cursor = ""
    while len(events) < size:
        request = audit_pb2.QueryRequest(limit=min(EXPORT_PAGE, size - len(events)), cursor=cursor)
        page, cursor = await _query(stack, request)
        events += page
        if not cursor:
            break
    proof = prove(note, events)
    if file is None:
        for event in events:
            print(event.decode())
    else:
        _place(file, b"".join(event + b"\n" for event in events))
        _place(file.with_name(file.name + ".proof"), proof.encode())
    return {"file": str(file), "proof": f"{file}.proof", "events": size}


def _place(file: Path, data: bytes) -> None:
    try:
        write_private(file, data)
    except OSError as error:
        fail(f"{file}: cannot be written: {error.strerror}")


def _filter(
    type_: str, user: str, action: str, resource: str, namespace: str, result: str, request_id: str
) -> audit_pb2.Filter:
    return audit_pb2.Filter(
        event_type=_number("--type", audit_pb2.EventType, "EVENT_TYPE_", type_),
        user=user,
        action=action,
        resource=resource,
        namespace=namespace,
        result=_number("--result", audit_pb2.Result, "RESULT_", result),
        request_id=request_id,
    )


def _number(option: str, enum: Any, prefix: str, name: str) -> Any:
    """The number of an enum's member; an empty name does not restrict."""
    members: list[str] = enum.keys()
    known = [member.removeprefix(prefix).lower() for member in members[1:]]
    if name and name not in known:
        fail(f"{option}: {name!r} is unknown; use one of {', '.join(known)}")
    return enum.Value(prefix + (name.upper() or "UNSPECIFIED"))


def _moment(option: str, text: str) -> datetime:
    """RFC 3339, or an age such as 15m."""
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--{option}: {text!r} is neither a time such as 2026-11-22T12:00:00Z nor an age such as 15m")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


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
    return "".join(char if char.isprintable() else "\ufffd" for char in text.rstrip())
