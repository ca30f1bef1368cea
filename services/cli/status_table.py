"""How `kubegate status` looks: a row a service, no wider than a terminal; what is wrong stands below, in full."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.cli.output import emit_table, printable

WIDTH = 120
"""Characters of a line."""

COLUMNS = ("SERVICE", "STATE", "VERSION", "UPTIME", "REVISION", "CERTIFICATE", "AUDIT HEAD", "LAST ERROR")

Row = Mapping[str, Any]
"""As `--json` has it."""


def show(rows: Sequence[Row], now: datetime) -> None:
    """Prints the table, and below it why a service is not ready, what it has noticed, and its last error."""
    emit_table(COLUMNS, [_cells(row, now) for row in rows], "no services")
    below = [line for row in rows for line in _below(row)]
    if below:
        print("", *below, sep="\n")


def _cells(row: Row, now: datetime) -> tuple[str, ...]:
    return (
        row["service"],
        row["state"],
        row["version"] or "",
        uptime(row["uptime_seconds"]),
        (row["revision"] or "").replace("sha256:", ""),
        expiry(row["certificates"] or {}, now),
        row["head"] or "",
        _moment(row["last_error"]["at"]) if row["last_error"] else "",
    )


def _below(row: Row) -> Iterator[str]:
    said = [(row["state"], text) for text in row["problems"]] + [("note", text) for text in row["notices"]]
    if error := row["last_error"]:
        said.append(("last error", f"{error['event']} ({error['component']}, {error['at'][:19]}Z)"))
    for kind, text in said:
        yield from textwrap.wrap(
            f"{row['service']}: {kind}: {printable(text)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )


def uptime(seconds: int | None) -> str:
    """Like ``3d 4h`` or ``12m``."""
    if seconds is None:
        return ""
    for size, unit, smaller, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // smaller}{below}"
    return f"{seconds // 60}m" if seconds >= 60 else f"{seconds}s"


def expiry(certificates: Mapping[str, str], now: datetime) -> str:
    """The certificate that ends first: its date, and the days that are left."""
    ends = min((datetime.fromisoformat(text) for text in certificates.values()), default=None)
    return "" if ends is None else f"{ends:%Y-%m-%d} ({(ends - now).days} d)"


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%m-%d %H:%M}Z"
