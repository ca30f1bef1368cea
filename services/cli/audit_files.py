"""`kubegate audit export | verify | receipt | witness | stats`: files that prove something, and what proves it."""

import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import aio

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.audit.verify import (
    Altered,
    BadCheckpoint,
    BadReceipt,
    Cosigner,
    LogFiles,
    Report,
    Unreadable,
    check,
    kept_heads,
    leaves,
    log_files,
    prove,
    public_key,
    size_of,
    verify_export,
    verify_lines,
    verify_log,
)
from services.cli.audit_calls import CALL_SECONDS, ask, head
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
from services.cli.home import HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import MISUSE, NEGATIVE, emit_json, emit_table, fail, run
from services.cli.pki import write_private
from services.cli.stack import Stack
from services.common.errors import InvalidArgument

FORMATS = {"jsonl": audit_pb2.EXPORT_FORMAT_JSON_LINES, "csv": audit_pb2.EXPORT_FORMAT_CSV}

Key = Annotated[str, typer.Option("--key", help="The log's public key (name+hash+key); default: the home's.")]


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


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="An export, a copy of the mirror, or a .tlog-proof; default: the store."),
    ] = None,
    key: Key = "",
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", help="A kept checkpoint, or an export's proof: the log must contain it."),
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Prove that no event was altered, removed or reordered. Needs no running service.

    Exit codes: 0 intact, 1 altered (the first is named), 2 unreadable.
    """
    try:
        heads = kept_heads(checkpoint or ())
        if file is None:
            report = verify_log(_log(key, home, heads))
        elif file.suffix == ".tlog-proof":
            if heads:
                raise Unreadable("a receipt shows one event; verify --checkpoint against the store or a whole export")
            _verify_receipt(file, key, home, as_json)
            return
        else:
            report = _verify_lines(file, key, home, heads)
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


def receipt(
    event_id: Annotated[str, typer.Argument(help="The event's event_id.")],
    writer: Annotated[str, typer.Option("--writer", help="Who wrote it.")] = "service/mcp-core",
    file: Annotated[Path | None, typer.Option("--out", help="Default: EVENT_ID.tlog-proof.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Write the receipt of one event: with the log's public key it proves offline that the event is in the log."""
    place = file or Path(f"{event_id}.tlog-proof")

    async def work() -> str:
        async with Stack.load(home) as stack:
            request = audit_pb2.GetReceiptRequest(event_id=event_id, writer=writer)
            response: audit_pb2.GetReceiptResponse = await ask(stack, "GetReceipt", request)
            return response.tlog_proof

    _place(place, run(work()).encode())
    if as_json:
        emit_json({"file": str(place), "event_id": event_id})
    else:
        print(f"{place}; verify it with `kubegate audit verify {place}`")


def witness(
    state: Annotated[Path, typer.Argument(metavar="FILE", help="Where the newest cosigned checkpoint is kept.")],
    key: Annotated[Path, typer.Option("--witness-key", help="Private key of the witness; made where there is none.")],
    name: Annotated[str, typer.Option("--name", help="Name of the witness, as in a URL without scheme.")],
    log_key: Annotated[str, typer.Option("--key", help="The log's public key (name+hash+key).")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Check that the log extends what was seen last, and keep its newest checkpoint, cosigned (C2SP).

    Run it regularly, with a key and on a volume that the audit service cannot write; name FILE and the printed key
    in the service's `witnesses`, and it refuses to start with a log that was cut back. Exit code 1: the log was.
    """
    cosigner = Cosigner(name, _witness_key(key))
    last = _read(state) if state.exists() else ""
    verifier = _log_key(log_key, home)

    async def work() -> audit_pb2.GetConsistencyProofResponse:
        async with Stack.load(home) as stack:
            request = audit_pb2.GetConsistencyProofRequest(old_size=size_of(last) if last else 0)
            try:
                response: audit_pb2.GetConsistencyProofResponse = await ask(stack, "GetConsistencyProof", request)
            except InvalidArgument as error:
                # Smaller than what was seen.
                raise BadCheckpoint(error.public_message) from error
            return response

    try:
        answer = run(work())
        note = cosigner.cosign(verifier, answer.checkpoint, last, answer.hashes, int(time.time()))
    except BadCheckpoint as error:
        fail(f"the log does not check out, keep {state} as evidence: {error}", NEGATIVE)
    except Unreadable as error:
        fail(f"{state}: {error}")
    _place(state, note.encode())
    if as_json:
        emit_json({"file": str(state), "key": cosigner.verifier.vkey, "events": size_of(note)})
    else:
        print(f"{size_of(note)} events witnessed in {state} by {cosigner.verifier.vkey}")


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


def _verdict(as_json: bool, verdict: dict[str, Any], code: int) -> NoReturn:
    if as_json:
        emit_json(verdict)
        raise typer.Exit(code)
    fail(f"{'altered' if code == NEGATIVE else 'cannot tell'}: {verdict['problem']}", code)


def _log(key: str, home: Path, heads: Mapping[str, str]) -> LogFiles:
    """The home's log, which must have these tree heads besides those that its configuration names."""
    log = log_files(HomeLayout(home).config("audit"), key)
    return replace(log, heads={**log.heads, **heads})


def _log_key(key: str, home: Path) -> Any:
    return public_key(key) if key else log_files(HomeLayout(home).config("audit")).verifier


def _verify_receipt(file: Path, key: str, home: Path, as_json: bool) -> None:
    try:
        proven = check(_read(file), _log_key(key, home))
    except BadReceipt as error:
        _verdict(as_json, {"intact": False, "problem": f"{file}: {error}"}, NEGATIVE)
    if as_json:
        emit_json({"intact": True, "sequence": proven.sequence, "events": proven.size, "event": proven.event.decode()})
    else:
        print(f"proven: event {proven.sequence} of a log of {proven.size}:\n{proven.event.decode()}")


def _verify_lines(file: Path, key: str, home: Path, heads: Mapping[str, str]) -> Report:
    """Against the proof beside the export where there is one, else against the home's store."""
    beside = file.with_name(file.name + ".proof")
    try:
        with file.open("rb") as lines:
            if beside.exists():
                return verify_export(lines, _read(beside), _log_key(key, home), heads)
            return verify_lines(lines, leaves(_log(key, home, heads)))
    except OSError as error:
        raise Unreadable(f"{file}: cannot be read: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: cannot be read") from error


def _witness_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _place(path, pem)
        return key
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        fail(f"{path}: not a private key in PEM form")
    if not isinstance(loaded, Ed25519PrivateKey):
        fail(f"{path}: not an Ed25519 key")
    return loaded


async def _export_whole(stack: Stack, file: Path | None) -> dict[str, Any]:
    """Everything of this log under its tree head of this moment. Files appear whole or not at all."""
    note = await head(stack)
    size = size_of(note)
    data = bytearray()
    async for part in _parts(stack, audit_pb2.ExportRequest(format=FORMATS["jsonl"])):
        data += part.data
        if part.events >= size:
            break
    events = bytes(data).split(b"\n")[:size]
    proof = prove(note, events)
    return _written(file, b"".join(event + b"\n" for event in events), proof.encode(), size)


async def _export(stack: Stack, file: Path | None, filter_: audit_pb2.Filter, format_: str) -> dict[str, Any]:
    """What a filter finds. Files appear whole or not at all."""
    lines = format_ == "jsonl"
    data, proof, count = bytearray(), bytearray(), 0
    request = audit_pb2.ExportRequest(filter=filter_, format=FORMATS[format_], proofs=lines and file is not None)
    async for part in _parts(stack, request):
        data += part.data
        proof += part.proof
        count = part.events
    return _written(file, bytes(data), bytes(proof), count)


async def _parts(stack: Stack, request: audit_pb2.ExportRequest) -> AsyncIterator[audit_pb2.ExportResponse]:
    metadata = await stack.admin_metadata()
    audit = stack.peer("audit")
    call = audit_pb2_grpc.AuditServiceStub(audit.channel()).Export(
        request, timeout=10 * CALL_SECONDS, metadata=metadata
    )
    try:
        async for response in call:
            yield response
    except aio.AioRpcError as error:
        raise audit.error(error) from None


def _written(file: Path | None, data: bytes, proof: bytes, count: int) -> dict[str, Any]:
    if file is None:
        print(data.decode(), end="")
        return {}
    _place(file, data)
    if not proof:
        return {"file": str(file), "events": count}
    _place(file.with_name(file.name + ".proof"), proof)
    return {"file": str(file), "proof": f"{file}.proof", "events": count}


def _place(file: Path, data: bytes) -> None:
    try:
        write_private(file, data)
    except OSError as error:
        fail(f"{file}: cannot be written: {error.strerror}")


COMMANDS: Sequence[Any] = (export, verify, receipt, witness, stats)
