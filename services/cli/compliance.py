"""`kubegate compliance ...`: evidence for auditors, collected over the RPCs and checked against the log."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.audit.verify import Altered, Unreadable, log_files, verify_log
from services.authz.policy.model import Policy
from services.cli.audit_calls import ask, query_records
from services.cli.audit_filter import moment
from services.cli.evidence import Completeness, Holder, pack
from services.cli.evidence_html import page
from services.cli.home import HomeLayout
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, fail, run
from services.cli.pki import write_private
from services.cli.policy import load
from services.cli.stack import PATIENCE, Stack
from services.cli.unfinished import Unfinished
from services.common.deadline import Deadline
from services.common.ids import uuid7

app = typer.Typer(no_args_is_help=True, help="Evidence for auditors.")

PAGE = 10_000
"""Events asked for at once; each question shows a fresh token."""

RESULTS = {
    "success": audit_pb2.RESULT_SUCCESS,
    "failure": audit_pb2.RESULT_FAILURE,
    "error": audit_pb2.RESULT_ERROR,
}

CHECKED = (
    "every event is canonical and hashes to its leaf, with its number in the log: none is missing, added or moved",
    "the Merkle tree (RFC 6962) was recomputed and leads to every signed root that was stored with a commit",
    "every derived column, every kept node and the structure of the store agree with the events",
    "the JSON Lines mirror holds the same events, line by line",
    "the store holds every checkpoint that was published or witnessed",
)


@app.callback()
def compliance() -> None:
    """Evidence for auditors."""


@app.command()
def soc2(
    from_: Annotated[str, typer.Option("--from", help="Begin: RFC 3339, a date, or an age such as 90d.")],
    to: Annotated[str, typer.Option("--to", help="End, not included; default: now.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path(),
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Write an evidence pack as HTML and JSON, with references to SOC 2, ISO 27001 and PCI DSS controls.

    Exit code 1: it is written, but the record could not be shown to be intact; the pack says why.
    """
    now = datetime.now(UTC)
    begin, end = moment("--from", from_), moment("--to", to) if to else now
    if begin >= end:
        fail("--from must lie before --to")
    policy = load(HomeLayout(home).policy)

    async def collect() -> tuple[list[dict[str, Any]], set[str], list[dict[str, Any]], Sequence[Holder]]:
        async with Stack.load(home) as stack:
            events, others = await _events(stack, audit_pb2.Filter(), begin, end)
            later = await _later_outcomes(stack, events, end)
            return events, others, later, _holders(await _keys(stack), policy)

    events, others, later, holders = run(collect())
    evidence = pack(begin, end, now, holders, events, _completeness(home, others), later)
    name = f"soc2-{begin:%Y%m%d}-{end:%Y%m%d}"
    files = {
        out / f"{name}.json": json.dumps(evidence, indent=2, ensure_ascii=False) + "\n",
        out / f"{name}.html": page(evidence),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            write_private(file, text.encode())
    except OSError as error:
        fail(f"{out}: cannot be written: {error.strerror}")
    intact = evidence["sections"]["completeness"]["intact"]
    if as_json:
        emit_json({"files": [str(file) for file in files], "events": len(events), "intact": intact})
    else:
        print("\n".join(str(file) for file in files))
    if not intact:
        fail(f"the record is not intact: {evidence['sections']['completeness']['problem']}", NEGATIVE)


@app.command()
def log(
    framework: Annotated[str, typer.Option("--framework", help="SOC2, ISO27001, PCI-DSS ...")],
    control: Annotated[str, typer.Option("--control", help="Its control, such as CC6.3.")],
    action: Annotated[str, typer.Option("--action", help="What was done, such as access-review.")],
    resource: Annotated[str, typer.Option("--resource", help="On what.")] = "",
    result: Annotated[str, typer.Option("--result", help="success, failure or error.")] = "success",
    detail: Annotated[list[str] | None, typer.Option("--detail", metavar="KEY=VALUE", help="More.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Put on record what was done about a control, as the person whose key this is."""
    if result not in RESULTS:
        fail(f"--result: {result!r} is unknown; use one of {', '.join(RESULTS)}")
    details = {}
    for pair in detail or ():
        key, equals, value = pair.partition("=")
        if not equals:
            fail(f"--detail: {pair!r} is not KEY=VALUE")
        details[key] = value
    request = audit_pb2.LogComplianceEventRequest(
        event_id=uuid7(),
        framework=framework,
        control=control,
        action=action,
        resource=resource,
        result=RESULTS[result],
        details=details,
    )

    async def work() -> audit_pb2.LogComplianceEventResponse:
        async with Stack.load(home) as stack:
            response: audit_pb2.LogComplianceEventResponse = await ask(stack, "LogComplianceEvent", request)
            return response

    recorded = run(work())
    if as_json:
        emit_json({"event_id": recorded.event_id, "sequence": recorded.sequence})
    else:
        print(f"recorded as event {recorded.sequence}, {recorded.event_id}")


async def _events(
    stack: Stack, filter_: audit_pb2.Filter, begin: datetime, end: datetime
) -> tuple[list[dict[str, Any]], set[str]]:
    """The events of a time, and the ids of the logs of other replicas that some of them lie in."""
    events: list[dict[str, Any]] = []
    others: set[str] = set()
    request = audit_pb2.QueryRequest(limit=PAGE, filter=filter_)
    request.filter.since.FromDatetime(begin)
    request.filter.until.FromDatetime(end)
    while True:
        records, request.cursor = await query_records(stack, request)
        events += [json.loads(record.canonical_json) for record in records]
        others |= {record.log_id for record in records} - {""}
        if not request.cursor:
            return events, others


async def _later_outcomes(stack: Stack, events: Sequence[dict[str, Any]], end: datetime) -> list[dict[str, Any]]:
    """Outcomes after the period, of what was begun in it: for as long as audit takes them."""
    until = Unfinished(events).settled()
    if until is None or until <= end:
        return []
    filter_ = audit_pb2.Filter()
    filter_.fields.add(path="phase", values=["outcome"])
    found, _ = await _events(stack, filter_, end, until)
    return found


async def _keys(stack: Stack) -> Sequence[authn_pb2.ApiKey]:
    response: authn_pb2.ListApiKeysResponse = await stack.peer("authn").unary(
        lambda channel: authn_pb2_grpc.CredentialAdminServiceStub(channel).ListApiKeys,
        authn_pb2.ListApiKeysRequest(),
        Deadline.after(PATIENCE),
        await stack.admin_metadata(),
    )
    return response.api_keys


def _holders(keys: Sequence[authn_pb2.ApiKey], policy: Policy) -> list[Holder]:
    return [
        Holder(
            credential=key.id,
            identity=key.identity,
            tenant=key.tenant,
            roles=list(key.roles),
            grants=_grants(key, policy),
            enabled=key.enabled,
            created=_time(key, "created_at"),
            expires=_time(key, "expires_at"),
            last_used=_time(key, "last_used_at"),
        )
        for key in keys
    ]


def _grants(key: authn_pb2.ApiKey, policy: Policy) -> list[str]:
    """What the key grants by today's policy, each permission with the places where it holds (R4)."""
    cap = "" if key.namespaces.all else ", capped to " + (", ".join(key.namespaces.patterns) or "no namespace")
    roles = {role.name: role for role in policy.roles}
    grants = []
    for name in key.roles:
        role = roles.get(name)
        if role is None:
            grants.append(f"role {name}: not in the policy, grants nothing")
            continue
        where = "everywhere" if role.scope.everything else f"in {', '.join(role.scope.patterns())}"
        grants += [f"{permission} {where}{cap} (role {name})" for permission in role.permissions]
    own = "everywhere" if key.namespaces.all else "in " + (", ".join(key.namespaces.patterns) or "no namespace")
    return [*grants, *(f"{permission} {own} (direct)" for permission in key.permissions)]


def _time(key: authn_pb2.ApiKey, name: Any) -> str:
    return str(getattr(key, name).ToJsonString()) if key.HasField(name) else ""


def _completeness(home: Path, others: set[str]) -> Completeness:
    """The verification of `kubegate audit verify`, which asks no service. It speaks of this home's log only."""
    try:
        log = log_files(HomeLayout(home).config("audit"))
        report = verify_log(log)
    except (Altered, Unreadable) as error:
        return Completeness(0, "", "", 0, problem=str(error))
    notes = list(CHECKED)
    if report.retired:
        notes.append(
            f"the first {report.retired} events are no longer there: retention deleted them, as the log's signed "
            "tombstone says, and their hashes are part of what was recomputed"
        )
    notes += [f"not checked here: events of the log {log_id}, which another replica owns" for log_id in sorted(others)]
    return Completeness(report.events, report.root_text, log.verifier.vkey, report.checkpoints, checked=notes)
