"""`follow_seconds` of get_pod_logs: the log as it is written, for a while.

Policy is asked again about what has come before a word of it is told, at least once a second (R19); what is told, by
progress or answer, has been redacted (R26). The time, the bytes and the lines are bounded.

What is there already is read first and redacted whole, as without following; then the log is followed from its last
line's time on, so that whatever shows later to be a secret is of lines that have not been told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from services.mcp_core.ports import LogStream
from services.mcp_core.redaction import LARGE, redact
from services.mcp_core.redaction_stream import StreamRedactor
from services.mcp_core.tools.base import Invocation, fenced
from services.mcp_core.tools.log_stamps import Unstamped, since, unstamped
from services.mcp_core.tools.looking import PAUSE, RESERVE

MAX_BYTES = 256 * 1024
"""Most bytes that one call follows."""

MAX_LINES = 2000
"""Most lines of an answer."""

TOLD_CHARACTERS = 4096
"""Most characters of log in one notification of progress; the answer has all of it."""


T = TypeVar("T")


@dataclass(slots=True)
class Followed:
    """What was seen of a log. ended: why it is over. searched: how many lines there were."""

    lines: list[str] = field(default_factory=list)
    ended: str = ""
    searched: int = 0


async def follow(invocation: Invocation, grep: str, longest: int) -> Followed:
    """Follows the log that the arguments name. grep: only lines with this text; longest: characters of a line.

    Raises:
        PermissionDenied, Unauthenticated: policy no longer allows it. DomainError: the log cannot be read.
    """
    arguments = invocation.arguments
    loop = asyncio.get_running_loop()
    seconds: float = arguments["follow_seconds"]
    if invocation.deadline is not None:
        seconds = min(seconds, invocation.deadline.remaining() - RESERVE)
    end = loop.time() + seconds
    redactor, found, left = StreamRedactor(), Followed(), MAX_BYTES
    place: dict[str, Any] = {"container": arguments.get("container", "")}
    selection = {"tail_lines": arguments["tail_lines"], "since_seconds": arguments["since_seconds"]}
    there = await invocation.cluster.logs(
        invocation.namespaces[0],
        arguments["name"],
        **place,
        **selection,
        previous=False,
        limit_bytes=MAX_BYTES,
        timestamps=True,
    )
    text, last = unstamped(there.text)
    if last:
        lines = await _beside(len(text), _told_before, redactor, text, loop.time())
        await invocation.still_allowed()
        await _add(invocation, found, lines, grep, longest)
    fresh = Unstamped(last)
    async with invocation.cluster.follow_logs(
        invocation.namespaces[0], arguments["name"], **place, **({"since_time": since(last)} if last else selection)
    ) as stream:
        while not found.ended:
            piece, whole = await _piece(stream, min(loop.time() + PAUSE, end), left)
            piece = fresh.feed(piece) + (fresh.end() if whole else b"")
            left -= len(piece)
            await invocation.still_allowed()
            lines = await _beside(redactor.pending + len(piece), redactor.feed, piece, loop.time())
            if whole:
                found.ended = "The container wrote its last line."
            elif left <= 0:
                found.ended = f"That were {MAX_BYTES // 1024} KiB; follow again to go on."
            elif loop.time() >= end:
                found.ended = "The time is up; follow again to go on."
            if found.ended:
                lines += await _beside(redactor.pending, partial(redactor.end, whole=whole))
            await _add(invocation, found, lines, grep, longest)
    return found


def _told_before(redactor: StreamRedactor, text: str, now: float) -> list[str]:
    """The redacted lines of what is there already; the redactor goes on behind it."""
    redactor.after(text, now)
    return redact(text).split("\n")


async def _beside(size: int, work: Callable[..., T], *given: Any) -> T:
    """Redacts beside the event loop where it is so many characters that the other requests would wait for it."""
    return await asyncio.to_thread(work, *given) if size >= LARGE else work(*given)


async def _piece(stream: LogStream, until: float, most: int) -> tuple[bytes, bool]:
    """What comes until then, about as much as ``most``; and whether the log is at its end."""
    loop = asyncio.get_running_loop()
    pieces: list[bytes] = []
    while most > 0 and (left := until - loop.time()) > 0:
        piece = await stream.read(left)
        if piece is None:
            return b"".join(pieces), True
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces), False


async def _add(invocation: Invocation, found: Followed, lines: list[str], grep: str, longest: int) -> None:
    """Takes lines up and tells them."""
    found.searched += len(lines)
    fresh = [line if len(line) <= longest else f"{line[:longest]}…" for line in lines if grep in line.lower()]
    if len(found.lines) + len(fresh) >= MAX_LINES:
        fresh = fresh[: MAX_LINES - len(found.lines)]
        found.ended = f"That were {MAX_LINES} lines; follow again to go on."
    if fresh:
        found.lines += fresh
        await invocation.progress(
            len(found.lines), None, fenced(f"{len(found.lines)} lines so far.", "\n".join(fresh)[-TOLD_CHARACTERS:])
        )
