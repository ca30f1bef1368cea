"""`kubegate audit retention | retire | hold | release`: what is deleted when, and what a legal hold keeps."""

from datetime import datetime
from typing import Annotated, Any

import typer

from kubegate.audit.v1 import audit_pb2
from services.cli.audit_calls import ask
from services.cli.audit_filter import moment
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import emit_json, emit_table, printable, run
from services.cli.stack import Stack

Reason = Annotated[str, typer.Option("--reason", help="Why: the number of a case, who decided it. It is recorded.")]


def retention(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Show after how many days events are deleted, what was, and the legal holds in force."""
    kept: audit_pb2.GetRetentionResponse = _ask("GetRetention", audit_pb2.GetRetentionRequest(), home)
    holds = [
        {
            "id": hold.id,
            "since": hold.since.ToJsonString() if hold.HasField("since") else "",
            "reason": hold.reason,
            "placed_by": hold.user,
            "placed_at": hold.placed_at.ToJsonString(),
        }
        for hold in kept.holds
    ]
    if as_json:
        emit_json({
            "days": kept.days or None, "first_sequence": kept.first_sequence, "events": kept.size, "holds": holds,
            "tombstone": kept.tombstone,
        })  # fmt: skip
        return
    policy = f"deleted after {kept.days} days" if kept.days else "never deleted (retention_days is not set)"
    print(f"events are {policy}; of {kept.size} the first {kept.first_sequence} are deleted")
    rows = ([printable(value) for value in hold.values()] for hold in holds)
    emit_table(["hold", "keeps from", "reason", "placed by", "placed at"], rows, "no legal hold is in force")


def retire(home: Home = DEFAULT_HOME, as_json: Json = False) -> None:
    """Delete now what the policy lets be deleted: whole segments of 256 events that no hold keeps. It cannot be undone.

    Leaf hashes and a signed tombstone stay, so that the rest can be verified. Needs kubegate:audit:retire.
    """
    done: audit_pb2.RetireResponse = _ask("Retire", audit_pb2.RetireRequest(), home)
    if as_json:
        emit_json({"deleted": done.events})
    else:
        print(f"{done.events} events deleted")


def hold(
    reason: Reason,
    since: Annotated[str, typer.Option("--since", help="Keep from then on: RFC 3339, or 90d ago; default: all.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Place a legal hold: nothing from then on is deleted until it is released. Needs kubegate:audit:hold."""
    request = audit_pb2.PlaceHoldRequest(reason=reason)
    if since:
        begin: datetime = moment("--since", since)
        request.since.FromDatetime(begin)
    placed: audit_pb2.PlaceHoldResponse = _ask("PlaceHold", request, home)
    if as_json:
        emit_json({"id": placed.id})
    else:
        print(f"{placed.id} is in force; end it with `kubegate audit release {placed.id} --reason ...`")


def release(
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="As `kubegate audit retention` lists it.")],
    reason: Reason,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """End a legal hold. What is old enough is deleted within the hour. Needs kubegate:audit:hold."""
    _ask("ReleaseHold", audit_pb2.ReleaseHoldRequest(id=hold_id, reason=reason), home)
    if as_json:
        emit_json({"id": hold_id, "released": True})
    else:
        print(f"{hold_id} is released")


def _ask(method: str, request: Any, home: Any) -> Any:
    async def work() -> Any:
        async with Stack.load(home) as stack:
            return await ask(stack, method, request)

    return run(work())
