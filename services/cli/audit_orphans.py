"""`kubegate audit orphans`: changes that were begun and of which nobody recorded how they ended (R21)."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from kubegate.audit.v1 import audit_pb2
from services.cli.audit_calls import CALL_SECONDS, query_records
from services.cli.audit_filter import Since, event_filter
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, printable, run
from services.cli.stack import Stack

NOT_FOUND = 404

GRACE_SECONDS = 180
"""How long after its deadline an outcome may still come: the core sends it again for two minutes."""

PAGE = 5_000

FIELDS = ("metadata.resourceVersion", "metadata.generation", "metadata.deletionTimestamp", "spec.replicas")
"""What is shown of an object: enough to tell whether it is the one that was, and what it is told to be."""


def orphans(
    since: Since = "7d",
    grace: Annotated[
        int, typer.Option("--grace", min=0, help="Seconds after its deadline in which an outcome may still come.")
    ] = GRACE_SECONDS,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Show changes that were begun and of which nobody knows how they ended, with what the cluster says now.

    A core that is killed between execution and record leaves such a change. The cluster is asked as you, through the
    gate: your policy decides what you see. Exit code 1 where there are any.
    """

    async def collect() -> list[dict[str, Any]]:
        async with Stack.load(home) as stack:
            events = [event async for event in _events(stack, since)]
            found = unfinished(events, datetime.now(UTC) - timedelta(seconds=grace))
            return [{**intent, "cluster_now": _cluster_now(stack, intent)} for intent in found]

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
        print(printable(f"    begun, end unknown. The cluster says now: {row['cluster_now']}"))
    if rows:
        raise typer.Exit(NEGATIVE)


def unfinished(events: Iterable[Mapping[str, Any]], before: datetime) -> list[dict[str, Any]]:
    """The intents of the core whose deadline lay before a time and that have no outcome, oldest first."""
    intents: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("phase") == "intent":
            intents[event["event_id"]] = dict(event)
        elif event.get("phase") == "outcome":
            intents.pop(event.get("intent_id", ""), None)
    return [each for each in intents.values() if datetime.fromisoformat(each["deadline"]) < before]


def subject(intent: Mapping[str, Any]) -> tuple[str, str, str]:
    """Kind as `get_resource` takes it, namespace and name of what an intent was about."""
    plural, _, name = str(intent["resource"]).partition("/")
    kind = str(intent.get("decision", {}).get("permission", "")).split(":")[1:2]
    return (kind[0] if kind else plural), str(intent.get("namespace", "")), name


async def _events(stack: Stack, since: str) -> AsyncIterator[dict[str, Any]]:
    filter_ = event_filter("mcp_request", "", "", "", "", "", "", None, "", since, "")
    cursor = ""
    while True:
        request = audit_pb2.QueryRequest(filter=filter_, limit=PAGE, cursor=cursor)
        records, cursor = await query_records(stack, request)
        for record in records:
            yield json.loads(record.canonical_json)
        if not cursor:
            return


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
