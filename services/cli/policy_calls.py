"""Calls to authz's administration of the policy, as the administrator (R15)."""

from pathlib import Path
from typing import Any

from kubegate.authz.v1 import policy_admin_pb2_grpc
from services.cli.output import run
from services.cli.stack import PATIENCE, Stack
from services.common.deadline import Deadline


def ask(home: Path, method: str, request: Any) -> Any:
    """The answer to one call; ends the command with a message where there is none."""

    async def asked() -> Any:
        async with Stack.load(home) as stack:
            return await stack.peer("authz").unary(
                lambda channel: getattr(policy_admin_pb2_grpc.PolicyAdminServiceStub(channel), method),
                request,
                Deadline.after(PATIENCE),
                await stack.admin_metadata(),
            )

    return run(asked())
