"""One administrative call to authn, with the operator's certificate and the administrator's token (R15)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
