"""`kubegate audit orphans`: changes that were begun and of which nobody recorded how they ended (R21)."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from kubegate.audit.v1 import audit_pb2
from services.cli.audit_calls import CALL_SECONDS, query_records
from services.cli.audit_filter import Since, event_filter
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, printable, run
from services.cli.stack import Stack
from services.cli.unfinished import Unfinished
from services.common.deadline import OUTCOME_GRACE

NOT_FOUND = 404

CORE = "service/mcp-core"

PAGE = 5_000

FIELDS = ("metadata.resourceVersion", "metadata.generation", "metadata.deletionTimestamp", "spec.replicas")
"""What is shown of an object: enough to tell whether it is the one that was, and what it is told to be."""


def orphans(
    since: Since = "7d",
    grace: Annotated[
        int, typer.Option("--grace", min=0, help="Seconds after its deadline in which an outcome may still come.")
    ] = int(OUTCOME_GRACE.total_seconds()),
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show changes that were begun and of which nobody knows how they ended, with what the cluster says now.

    A core that is killed between execution and record leaves such a change. The cluster is asked as you, through the
    gate: your policy decides what you see. Exit code 1 where there are any.
    """

    async def collect() -> list[dict[str, Any]]:
        async with Stack.load(home) as stack:
            unfinished = await _unfinished(stack, since)
            found = unfinished.overdue(datetime.now(UTC), grace)
            return [{**intent, "cluster_now": _now(stack, intent)} for intent in found]

    rows = run(collect())
    if as_json:
        emit_json(rows)
    elif not rows:
        print("no change is without an outcome")
    for row in [] if as_json else rows:
        place = "/".join(part for part in (row["namespace"], row["resource"]) if part)
        print(
            printable(f"{row['timestamp'][:19]}Z  {row['user']}  {row['action']}  {place}  request {row['request_id']}")
        )
        asked = "The cluster says now: " if row["writer"] == CORE else ""
        print(printable(f"    begun, end unknown. {asked}{row['cluster_now']}"))
    if rows:
        raise typer.Exit(NEGATIVE)


def subject(intent: Mapping[str, Any]) -> tuple[str, str, str]:
    """Kind as `get_resource` takes it, namespace and name of what an intent was about."""
    plural, _, name = str(intent["resource"]).partition("/")
    kind = str(intent.get("decision", {}).get("permission", "")).split(":")[1:2]
    return (kind[0] if kind else plural), str(intent.get("namespace", "")), name


async def _unfinished(stack: Stack, since: str) -> Unfinished:
    """Of every writer, as audit counts them; of the other events none is sent."""
    filter_ = event_filter("", "", "", "", "", "", "", ["phase=intent", "phase=outcome"], "", since, "")
    found, cursor = Unfinished(), ""
    while True:
        request = audit_pb2.QueryRequest(filter=filter_, limit=PAGE, cursor=cursor)
        records, cursor = await query_records(stack, request)
        found.add(json.loads(record.canonical_json) for record in records)
        if not cursor:
            return found


def _now(stack: Stack, intent: Mapping[str, Any]) -> str:
    """One sentence about what an intent was about."""
    if intent["writer"] == CORE:
        return _cluster_now(stack, intent)
    return f"It changes no cluster but {intent['writer']}: look there whether {intent['action']} took effect."


def question(intent: Mapping[str, Any], clusters: Sequence[str]) -> dict[str, Any] | str:
    """The arguments of get_resource for what an intent was about, or why nobody can be asked.

    clusters: those of the gate, where its endpoints name them. Another cluster's object of that name says nothing.
    """
    kind, namespace, name = subject(intent)
    cluster = str(intent.get("metadata", {}).get("cluster", ""))
    if not name:
        return "it concerns no single object; look yourself."
    if clusters and cluster not in clusters and (cluster or len(clusters) > 1):
        return f"it concerns cluster {cluster or 'unknown'}, which this gate does not have."
    arguments = {"kind": kind, "name": name, "fields": list(FIELDS)} | ({"namespace": namespace} if namespace else {})
    return arguments | ({"cluster": cluster} if len(clusters) > 1 else {})


def _cluster_now(stack: Stack, intent: Mapping[str, Any]) -> str:
    """One sentence about an object, as whoever runs this command may see it."""
    endpoints = stack.layout.read_endpoints()
    arguments = question(intent, endpoints.get("clusters", ()))
    if isinstance(arguments, str):
        return arguments
    request = urllib.request.Request(  # noqa: S310 - the gate's own address, as `up` wrote it
        f"{endpoints['base_url']}/mcp/tools/get_resource",
        json.dumps(arguments).encode(),
        {"authorization": f"Bearer {stack.key()}", "content-type": "application/json"},
    )
    context = ssl.create_default_context(cafile=endpoints["ca_file"])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=CALL_SECONDS) as response:
            values = json.load(response)["object"]
    except urllib.error.HTTPError as error:
        if error.code == NOT_FOUND:
            return "it is not there."
        return str(json.load(error).get("detail", f"HTTP status {error.code}"))
    except OSError as error:
        return f"the gate cannot be asked ({error.__class__.__name__}); `kubegate status` says why."
    shown = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in values.items() if value is not None)
    return f"it is there{': ' if shown else ''}{shown}."
