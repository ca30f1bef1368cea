"""`kubegate audit export | receipt | stats`: files that prove something, and counts for plots."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from kubegate.audit.v1 import audit_pb2
from services.audit.verify import Altered, Unreadable, prove, size_of
from services.cli.audit_calls import ask, head, stream
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
from services.cli.audit_places import beside, leave_out, place, placing
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import MISUSE, NEGATIVE, emit_json, emit_table, fail, run
from services.cli.stack import Stack

FORMATS = {"jsonl": audit_pb2.EXPORT_FORMAT_JSON_LINES, "csv": audit_pb2.EXPORT_FORMAT_CSV}


def export(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Default: standard output.")] = None,
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
    format_: Annotated[str, typer.Option("--format", help="jsonl, or csv for spreadsheets (has no proof).")] = "jsonl",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Write events as JSON Lines, and beside them FILE.proof, so that the export can be verified anywhere.

    Without a filter it is the whole log, and the proof shows that nothing is missing either.
    """
    if format_ not in FORMATS:
        fail(f"--format: {format_!r} is unknown; use one of {', '.join(FORMATS)}")
    filter_ = event_filter(type_, user, action, resource, namespace, result, request_id, field, text, since, until)
    whole = format_ == "jsonl" and filter_ == audit_pb2.Filter()

    async def work() -> dict[str, Any]:
        async with Stack.load(home) as stack:
            if file is None:
                await _print(stack, filter_, format_)
                return {}
            return await (_export_whole(stack, file) if whole else _export(stack, file, filter_, format_))

    try:
        summary = run(work())
    except (Altered, Unreadable) as error:
        fail(str(error), NEGATIVE if isinstance(error, Altered) else MISUSE)
    if file is not None and as_json:
        emit_json(summary)
    elif file is not None:
        how = f"; verify them with `kubegate audit verify {file}`" if "proof" in summary else ""
        print(f"{summary['events']} events in {file}{how}")


def receipt(
    event_id: Annotated[str, typer.Argument(help="Its `event_id`, as `audit query --json` shows it.")],
    writer: Annotated[str, typer.Option("--writer", help="Who wrote it: its `writer` there.")] = "service/mcp-core",
    file: Annotated[Path | None, typer.Option("--out", help="Default: EVENT_ID.tlog-proof.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Write the receipt of one event: with the log's public key it proves offline that the event is in the log."""
    target = file or Path(f"{event_id}.tlog-proof")

    async def work() -> str:
        async with Stack.load(home) as stack:
            request = audit_pb2.GetReceiptRequest(event_id=event_id, writer=writer)
            response: audit_pb2.GetReceiptResponse = await ask(stack, "GetReceipt", request)
            return response.tlog_proof

    place(target, run(work()).encode())
    if as_json:
        emit_json({"file": str(target), "event_id": event_id})
    else:
        print(f"{target}; verify it with `kubegate audit verify {target}`")


def stats(
    by: Annotated[
        str, typer.Option("--by", help="Of event_type, result, user, action, namespace; several with commas.")
    ] = "event_type,result",
    bucket: Annotated[int, typer.Option("--bucket", min=0, help="Seconds of a span of time; 0: none.")] = 0,
    since: Since = "",
    until: Until = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Count events, for plots."""
    names = [name for name in by.split(",") if name]
    known = {name.removeprefix("STATS_FIELD_").lower(): number for name, number in audit_pb2.StatsField.items()[1:]}
    for name in names:
        if name not in known:
            fail(f"--by: {name!r} is unknown; use {', '.join(known)}")
    request = audit_pb2.StatsRequest(
        filter=event_filter("", "", "", "", "", "", "", since=since, until=until),
        by=[known[name] for name in names],
        bucket_seconds=bucket,
    )

    async def work() -> audit_pb2.StatsResponse:
        async with Stack.load(home) as stack:
            response: audit_pb2.StatsResponse = await ask(stack, "Stats", request)
            return response

    rows = [
        {
            **({"time": row.bucket.ToJsonString()} if row.HasField("bucket") else {}),
            **dict(zip(names, row.values, strict=True)),
            "count": row.count,
        }
        for row in run(work()).rows
    ]
    if as_json:
        emit_json(rows)
    else:
        columns = [*(["time"] if bucket else []), *names, "count"]
        emit_table(columns, ([str(row[column]) for column in columns] for row in rows), "no events")


async def _export_whole(stack: Stack, file: Path) -> dict[str, Any]:
    """Everything of this log under its tree head of this moment, and its proof."""
    note = await head(stack)
    size = size_of(note)
    request = audit_pb2.ExportRequest(format=FORMATS["jsonl"])
    with placing(file) as lines:
        first = following = None
        async for part in stream(stack, "Export", request):
            for line in part.data.splitlines(keepends=True):
                if following is None:
                    first = following = int(json.loads(line)["sequence"])
                if following < size:
                    lines.write(line)
                    following += 1
        # Asked afterwards: it speaks of all that was deleted until then, and perhaps of events that were just exported.
        kept: audit_pb2.GetRetentionResponse = await ask(stack, "GetRetention", audit_pb2.GetRetentionRequest())
        leaves = b""
        if kept.first_sequence:
            parts = stream(stack, "GetRetiredLeaves", audit_pb2.GetRetiredLeavesRequest())
            leaves = b"".join([part.leaves async for part in parts])[: kept.first_sequence * 32]
            if first is not None:
                leave_out(lines, kept.first_sequence - first)
        retired = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
        lines.seek(0)
        proof = prove(note, (line[:-1] for line in lines), retired, kept.tombstone)
    place(beside(file), proof.encode())
    return {"file": str(file), "proof": str(beside(file)), "events": size - len(retired)}


async def _export(stack: Stack, file: Path, filter_: audit_pb2.Filter, format_: str) -> dict[str, Any]:
    """What a filter finds; for JSON Lines with a proof for each event."""
    lines, count = format_ == "jsonl", 0
    request = audit_pb2.ExportRequest(filter=filter_, format=FORMATS[format_], proofs=lines)
    with placing(file) as data, placing(beside(file)) if lines else nullcontext() as proof:
        async for part in stream(stack, "Export", request):
            data.write(part.data)
            if proof is not None:
                proof.write(part.proof)
            count = part.events
    summary = {"file": str(file), "events": count}
    return {**summary, "proof": str(beside(file))} if lines else summary


async def _print(stack: Stack, filter_: audit_pb2.Filter, format_: str) -> None:
    request = audit_pb2.ExportRequest(filter=filter_, format=FORMATS[format_])
    async for part in stream(stack, "Export", request):
        print(part.data.decode(), end="", flush=True)
