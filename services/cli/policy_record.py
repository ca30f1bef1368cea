"""Recorded decisions, as `kubegate policy replay` reads them over audit's RPCs."""

import json
from pathlib import Path
from typing import Any

from kubegate.audit.v1 import audit_pb2
from services.cli.audit_calls import query_records
from services.cli.audit_filter import moment
from services.cli.output import run
from services.cli.stack import Stack


def read_decisions(home: Path, since: str, limit: int) -> list[dict[str, Any]]:
    """The newest authorization events since a time, oldest first."""
    request = audit_pb2.QueryRequest(
        filter=audit_pb2.Filter(event_type=audit_pb2.EVENT_TYPE_AUTHORIZATION), limit=limit, descending=True
    )
    request.filter.since.FromDatetime(moment("--since", since))

    async def ask() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        async with Stack.load(home) as stack:
            while True:
                records, request.cursor = await query_records(stack, request)
                events += [json.loads(record.canonical_json) for record in records]
                request.limit = limit - len(events)
                if not request.cursor or not request.limit:
                    return events[::-1]

    return run(ask())
