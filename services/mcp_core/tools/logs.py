"""Logs of a pod: the newest lines, or those still to come, redacted before anybody searches them (R26)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from msgspec import Meta as Constraint

from services.common.errors import InvalidArgument
from services.mcp_core.naming import DNS1123_LABEL, DNS1123_SUBDOMAIN
from services.mcp_core.redaction import redact_aside
from services.mcp_core.tools.base import Invocation, Namespace, Permission, Structured, Tool, fenced, name_argument
from services.mcp_core.tools.following import follow
from services.mcp_core.tools.looking import MAX_SECONDS

LOGS = Permission("logs", "", "pods", "log")

LOG_BYTES = 256 * 1024
"""Most bytes of log that are fetched for one call."""

GREP_LINES = 5000
"""Among how many of the newest lines `grep` looks."""

LINE_CHARACTERS = 4096
"""Longest line of a log in an answer; the rest of the line is cut."""


class LogArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Arguments of get_pod_logs."""

    name: Annotated[str, Constraint(pattern=DNS1123_SUBDOMAIN, max_length=253, description="Name of the pod.")]
    namespace: Namespace
    container: (
        Annotated[str, Constraint(pattern=DNS1123_LABEL, description="Container; needed where the pod has several.")]
        | UnsetType
    ) = UNSET
    tail_lines: Annotated[int, Constraint(ge=1, le=1000, description="How many of the newest lines.")] = 100
    previous: Annotated[bool, Constraint(description="The container before its last restart.")] = False
    since_seconds: Annotated[int, Constraint(ge=0, le=604_800, description="Only lines this young; 0 is all.")] = 0
    follow_seconds: Annotated[
        int, Constraint(ge=0, le=MAX_SECONDS, description="Go on for so long with what is written; 0 does not.")
    ] = 0
    grep: Annotated[
        str, Constraint(max_length=256, description="Only lines that contain this text, in whatever case; no pattern.")
    ] = ""


class LogLines(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Answer of get_pod_logs. `truncated`: the newest lines are missing, or a line was cut.

    searched: among how many lines `grep` looked. ended: why it was followed no longer.
    """

    pod: str
    namespace: str
    lines: list[str]
    truncated: bool
    searched: int | UnsetType = UNSET
    ended: str | UnsetType = UNSET


async def _get_pod_logs(invocation: Invocation) -> Structured:
    arguments = invocation.arguments
    (namespace,) = invocation.namespaces
    wanted: int = arguments["tail_lines"]
    grep: str = arguments["grep"].lower()
    if arguments["follow_seconds"]:
        return await _followed(invocation, grep)
    log = await invocation.cluster.logs(
        namespace,
        arguments["name"],
        container=arguments.get("container", ""),
        tail_lines=GREP_LINES if grep else wanted,
        previous=arguments["previous"],
        limit_bytes=LOG_BYTES,
        since_seconds=arguments["since_seconds"],
    )
    lines = await clean_lines(log.text)
    searched = len(lines) if grep else UNSET
    if grep:
        lines = [line for line in lines if grep in line.lower()][-wanted:]
    cut = [line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}…" for line in lines]
    truncated = log.truncated or cut != lines
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        LogLines(pod=arguments["name"], namespace=namespace, lines=cut, truncated=truncated, searched=searched)
    )


async def _followed(invocation: Invocation, grep: str) -> Structured:
    if invocation.arguments["previous"]:
        raise InvalidArgument("The container before its last restart writes no more: `previous` is not followed.")
    found = await follow(invocation, grep, LINE_CHARACTERS)
    return msgspec.to_builtins(  # type: ignore[no-any-return]
        LogLines(
            pod=invocation.arguments["name"],
            namespace=invocation.namespaces[0],
            lines=found.lines,
            truncated=any(len(line) > LINE_CHARACTERS for line in found.lines),
            searched=found.searched if grep else UNSET,
            ended=found.ended,
        )
    )


async def clean_lines(text: str) -> list[str]:
    """The lines of a log. Redacted as a whole, since a cut could hide half of a secret from the rules."""
    lines = (await redact_aside(text)).split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def _fenced_log(result: Structured) -> str:
    note = " Cut: ask for fewer lines to see the newest." if result["truncated"] else ""
    note = f" {result['ended']}" if "ended" in result else note
    intro = f"Log of pod {result['namespace']}/{result['pod']}, {len(result['lines'])} lines.{note}"
    return fenced(intro, "\n".join(result["lines"]))


TOOLS = (
    Tool(
        name="get_pod_logs",
        title="Read a pod's log",
        description="The newest lines of a container's log, or those that contain a text; `follow_seconds` goes on "
        "with what is written. Obvious secrets are removed.",
        arguments=LogArguments,
        result=LogLines,
        permission=LOGS,
        run=_get_pod_logs,
        waits=lambda arguments: bool(arguments["follow_seconds"]),
        read_only=True,
        idempotent=True,
        resource_name=name_argument,
        text=_fenced_log,
    ),
)
