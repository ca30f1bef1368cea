"""Recorded decisions, as `kubegate policy replay` reads them over audit's RPCs."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grpc import aio

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.cli.output import fail, run
from services.cli.stack import Stack

CALL_SECONDS = 60.0

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def read_decisions(home: Path, since: str, limit: int) -> list[dict[str, Any]]:
    """The newest authorization events since a time, oldest first."""
    request = audit_pb2.QueryRequest(
        filter=audit_pb2.Filter(event_type=audit_pb2.EVENT_TYPE_AUTHORIZATION), limit=limit, descending=True
    )
    request.filter.since.FromDatetime(_moment(since))

    async def ask() -> list[dict[str, Any]]:
        async with Stack.load(home) as stack:
            audit = stack.peer("audit")
            metadata = await stack.admin_metadata()
            stub = audit_pb2_grpc.AuditServiceStub(audit.channel())
            events: list[dict[str, Any]] = []
            try:
                async for response in stub.Query(request, timeout=CALL_SECONDS, metadata=metadata):
                    events += [json.loads(record.canonical_json) for record in response.records]
            except aio.AioRpcError as error:
                raise audit.error(error) from None
            return events[::-1]

    return run(ask())


def _moment(text: str) -> datetime:
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--since: {text!r} is neither a time such as 2026-11-22T12:00:00Z nor an age such as 15m")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
