"""Where the commands of `kubegate audit` find the log's public key, read files, and put them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from services.audit.verify import Unreadable, log_files, public_key
from services.cli.home import HomeLayout
from services.cli.output import fail
from services.cli.pki import write_private

Key = Annotated[str, typer.Option("--key", help="The log's public key (name+hash+key); default: the home's.")]


def log_key(key: str, home: Path) -> Any:
    """The verifier of the key that was named, or of the home's log. Raises Unreadable."""
    return public_key(key) if key else log_files(HomeLayout(home).config("audit")).verifier


def read(path: Path) -> str:
    """A text file.

    Raises:
        Unreadable: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: cannot be read") from error


def place(file: Path, data: bytes) -> None:
    """Writes a file, whole or not at all; ends the command where that cannot be done."""
    try:
        write_private(file, data)
    except OSError as error:
        fail(f"{file}: cannot be written: {error.strerror}")


def beside(file: Path) -> Path:
    """Where the proof of an export lies."""
    return file.with_name(file.name + ".proof")


@contextmanager
def placing(file: Path) -> Iterator[BinaryIO]:
    """A file to write, and to read again, that takes its place when all is written; ends the command where it cannot be
    written. Only its owner may read it."""
    partial = file.with_name(file.name + ".part")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as opened:
            yield opened
        partial.replace(file)
    except OSError as error:
        fail(f"{file}: cannot be written: {error.strerror}")
    finally:
        partial.unlink(missing_ok=True)


def leave_out(file: BinaryIO, lines: int) -> None:
    """Takes so many lines away from the beginning of a file."""
    file.seek(0)
    for _ in range(lines):
        file.readline()
    at, to = file.tell(), 0
    while chunk := _read_at(file, at):
        file.seek(to)
        file.write(chunk)
        at, to = at + len(chunk), to + len(chunk)
    file.truncate(to)


def _read_at(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(1 << 20)
