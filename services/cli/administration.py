"""One administrative call to authn, with the operator's certificate and the administrator's token (R15)."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
from grpc import aio

from services.cli.output import run
from services.cli.stack import PATIENCE, Stack
from services.common.deadline import Deadline


def call(home: Path, method: Callable[[aio.Channel], Any], request: Any) -> Any:
    """The answer to one call; ends the command with a message where there is none."""

    async def ask() -> Any:
        async with Stack.load(home) as stack:
            metadata = await stack.admin_metadata()
            return await stack.peer("authn").unary(method, request, Deadline.after(PATIENCE), metadata)

    return run(ask())


def warn_of_roles(unknown: Iterable[str]) -> None:
    """Says on standard error which roles of a new credential the policy does not have."""
    for name in unknown:
        typer.echo(f"Warning: the policy has no role {name!r}; it gives nothing until there is one.", err=True)
