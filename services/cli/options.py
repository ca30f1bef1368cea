"""Options that every command takes under the same name."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_HOME = Path(".kubegate")

Home = Annotated[
    Path,
    typer.Option("--home", metavar="DIR", envvar="KUBEGATE_HOME", help="Directory that holds the stack."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object or array on standard output.")]
