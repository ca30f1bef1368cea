"""Calls to the audit service that several commands make."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.cli.stack import Stack
from services.common.deadline import Deadline
from services.common.errors import DeadlineExceeded

CALL_SECONDS = 30.0
"""Time for one answer."""

QUIET_SECONDS = 300.0
"""Time for the next message of a stream; the whole takes as long as it takes."""


async def ask(stack: Stack, method: str, request: Any, *, token: bool = True) -> Any:
    """The answer of a unary method, asked as the administrator; without ``token`` by certificate alone.

    Raises:
        DomainError: as audit sent it.
    """
    return await stack.peer("audit").unary(
        lambda channel: getattr(audit_pb2_grpc.AuditServiceStub(channel), method),
        request,
        Deadline.after(CALL_SECONDS),
        await stack.admin_metadata() if token else (),
    )


async def stream(stack: Stack, method: str, request: Any) -> AsyncIterator[Any]:
    """The answers of a streaming method, asked as the administrator. Raises as ``ask``."""
    metadata = await stack.admin_metadata()
    audit = stack.peer("audit")
    call = getattr(audit_pb2_grpc.AuditServiceStub(audit.channel()), method)(request, metadata=metadata)
    try:
        while True:
            async with asyncio.timeout(QUIET_SECONDS):
                response = await call.read()
            if response is aio.EOF:
                return
            yield response
    except TimeoutError:
        raise DeadlineExceeded(f"The audit service has sent nothing for {QUIET_SECONDS:.0f} seconds.") from None
    except aio.AioRpcError as error:
        raise audit.error(error) from None
    finally:
        call.cancel()


async def head(stack: Stack) -> str:
    """The newest signed tree head."""
    response: audit_pb2.GetCheckpointResponse = await ask(stack, "GetCheckpoint", audit_pb2.GetCheckpointRequest())
    return response.checkpoint


async def query_records(stack: Stack, request: audit_pb2.QueryRequest) -> tuple[list[audit_pb2.Record], str]:
    """One query's records, and the cursor that leads on."""
    records: list[audit_pb2.Record] = []
    cursor = ""
    async for response in stream(stack, "Query", request):
        records += response.records
        cursor = response.next_cursor
    return records, cursor
