"""What commands print: tables for people, JSON for programs, one kind of error for both."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from services.common.errors import DomainError, PermissionDenied, Unauthenticated, Unavailable

T = TypeVar("T")

NEGATIVE = 1
"""Exit code of a negative answer."""

_WIDEST = 1000

MISUSE = 2
"""Exit code of misuse, or of a question that cannot be answered."""


def emit_json(value: Any) -> None:
    """Prints one JSON value."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Prints rows under their headings, or ``empty`` where there are none."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # As wide as it has to be: an id that is broken over two lines cannot be copied.
    Console(width=_WIDEST).print(table if table.row_count else empty, markup=False)


def printable(text: str) -> str:
    """A text that others wrote, safe for a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


def fail(message: str, code: int = MISUSE) -> NoReturn:
    """Ends the command with a message on standard error."""
    print(f"kubegate: {message}", file=sys.stderr)
    raise typer.Exit(code)


def run(work: Awaitable[T]) -> T:
    """Runs a command's RPCs; a refusal ends it with 1, anything that kept the question open with 2."""

    async def main() -> T:
        return await work

    try:
        return asyncio.run(main())
    except (PermissionDenied, Unauthenticated) as error:
        fail(error.public_message, NEGATIVE)
    except Unavailable as error:
        fail(f"{error.public_message} Is the stack up? See `kubegate status`.")
    except DomainError as error:
        fail(error.public_message)
