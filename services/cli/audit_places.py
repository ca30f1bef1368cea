"""Where the commands of `kubegate audit` find the log's public key, read files, and put them."""

from pathlib import Path
from typing import Annotated, Any

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
