"""Calls to the audit service that several commands make."""

from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.cli.stack import Stack
from services.common.deadline import Deadline

CALL_SECONDS = 30.0
"""Time for one answer."""


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
    stub = audit_pb2_grpc.AuditServiceStub(audit.channel())
    try:
        async for response in getattr(stub, method)(request, timeout=10 * CALL_SECONDS, metadata=metadata):
            yield response
    except aio.AioRpcError as error:
        raise audit.error(error) from None


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
