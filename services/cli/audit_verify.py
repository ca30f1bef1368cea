"""`kubegate audit verify`: the store, an export, a copy of the mirror or a receipt, without any running service."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from services.audit.verify import (
    Altered,
    BadReceipt,
    LogFiles,
    OtherKey,
    Report,
    Unreadable,
    check,
    kept_heads,
    leaves,
    log_files,
    signed_otherwise,
    verify_export,
    verify_lines,
    verify_log,
)
from services.cli.audit_places import Key, beside, log_key, read
from services.cli.home import HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import MISUSE, NEGATIVE, emit_json, fail, printable


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
        elif file.suffix == ".csv":
            raise Unreadable(f"{file}: CSV carries no proof; verify an export without --format csv")
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
    if as_json:
        counts = {"events": report.events, "checkpoints": report.checkpoints, "mirrored": report.mirrored}
        counts["retired"] = report.retired
        emit_json({"intact": True, **counts, "root": report.root_text, "keys": report.keys})
    else:
        mirror = f", {report.mirrored} lines in the mirror" if report.mirrored is not None else ""
        gone = f" ({report.retired} of them deleted by retention)" if report.retired else ""
        print(
            f"intact: {report.events} events{gone}, signed roots checked: {report.checkpoints}{mirror}; "
            f"root {report.root_text}"
        )


def _verdict(as_json: bool, verdict: dict[str, Any], code: int) -> NoReturn:
    if as_json:
        emit_json(verdict)
        raise typer.Exit(code)
    fail(f"{'altered' if code == NEGATIVE else 'cannot tell'}: {verdict['problem']}", code)


def _log(key: str, home: Path, heads: Mapping[str, str]) -> LogFiles:
    """The home's log, which must have these tree heads besides those that its configuration names."""
    log = log_files(HomeLayout(home).config("audit"), key)
    return replace(log, heads={**log.heads, **heads})


def _verify_receipt(file: Path, key: str, home: Path, as_json: bool) -> None:
    try:
        proven = check(read(file), log_key(key, home))
    except BadReceipt as error:
        cause = error.__cause__
        why = signed_otherwise("its signed root", cause) if isinstance(cause, OtherKey) else str(error)
        _verdict(as_json, {"intact": False, "problem": f"{file}: {why}"}, NEGATIVE)
    if as_json:
        emit_json({"intact": True, "sequence": proven.sequence, "events": proven.size, "event": proven.event.decode()})
    else:
        print(f"proven: event {proven.sequence} of a log of {proven.size}:\n{printable(proven.event.decode())}")


def _verify_lines(file: Path, key: str, home: Path, heads: Mapping[str, str]) -> Report:
    """Against the proof beside the export where there is one, else against the home's store."""
    proof = beside(file)
    try:
        with file.open("rb") as lines:
            if proof.exists():
                return verify_export(lines, read(proof), log_key(key, home), heads)
            return verify_lines(lines, leaves(_log(key, home, heads)))
    except OSError as error:
        raise Unreadable(f"{file}: cannot be read: {error.strerror}") from error
