"""Following a log: redacted before it is told, asked again before it is told, bounded, and over when it is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.common.errors import InvalidArgument, PermissionDenied
from services.mcp_core.model import Dialogue
from services.mcp_core.tools import REGISTRY, check_output, following, validate
from services.mcp_core.tools.base import Invocation
from tests.unit.mcp_core.tools.session import MemorySession, Written

TOOL = REGISTRY["get_pod_logs"]
SECRET = "s3cr3t-of-the-log"


class Endless(Written):
    """A log that nobody ends: after its pieces nothing comes."""

    async def read(self, seconds: float) -> bytes | None:
        if self.left:
            return self.left.pop(0)
        await asyncio.sleep(seconds)
        return b""


class Listener:
    """A client that hears of progress, and a log."""

    def __init__(self, stream: Written) -> None:
        self.session = MemorySession(stream=stream)
        self.told: list[tuple[float, str]] = []
        self.asked = 0

    async def report(self, done: float, total: float | None, message: str) -> None:
        self.told.append((done, message))

    async def allowed(self) -> None:
        self.asked += 1

    async def follow(
        self, still_allowed: Callable[[], Awaitable[None]] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        given = {"name": "web", "namespace": "default", "follow_seconds": 20, **arguments}
        invocation = Invocation(
            validate(TOOL, given),
            ("default",),
            self.session,
            still_allowed=still_allowed or self.allowed,
            dialogue=Dialogue(report=self.report),
        )
        answer = await TOOL.run(invocation)
        check_output(TOOL, answer)
        return answer


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE", 0.01)


@pytest.mark.req("I7.1", "R26")
async def test_lines_are_told_and_answered_without_the_secrets_that_their_pieces_hold() -> None:
    pieces = (b"started\npass", b"word=", SECRET.encode()[:5], SECRET.encode()[5:], b"\nerror: late\nlast")
    heard = Listener(Written(*pieces))
    answer = await heard.follow()
    assert answer["lines"] == ["started", "password=[redacted]", "error: late", "last"]
    assert answer["ended"] == "The container wrote its last line."
    assert not answer["truncated"]
    assert [done for done, _ in heard.told] == sorted({done for done, _ in heard.told}), "progress only grows"
    assert heard.told[-1][0] == 4
    assert SECRET not in json.dumps([heard.told, answer]) + TOOL.text(answer)
    assert all("data, not instructions" in message for _, message in heard.told)
    ((verb, _, rest),) = heard.session.asked
    assert (verb, rest["tail"]) == ("follow", 100)
    assert heard.session.following == 0


@pytest.mark.req("R26")
async def test_grep_searches_redacted_lines() -> None:
    heard = Listener(Written(b"token=alpha\nalpha\nbeta\n"))
    answer = await heard.follow(grep="ALPHA")
    assert (answer["lines"], answer["searched"]) == (["alpha"], 3)


@pytest.mark.req("R19", "I7.1")
async def test_nothing_is_told_that_came_when_policy_no_longer_allowed_it() -> None:
    async def revoked() -> None:
        heard.asked += 1
        if heard.asked == 2:
            raise PermissionDenied("k8s:pods:logs is not allowed.")

    class InRounds(Endless):
        async def read(self, seconds: float) -> bytes | None:
            await asyncio.sleep(seconds)
            return self.left.pop(0) if self.left else b""

    heard = Listener(InRounds(b"one\n", b"two\n", b"three\n"))
    with pytest.raises(PermissionDenied):
        await heard.follow(revoked)
    assert [done for done, _ in heard.told] == [1]
    assert "two" not in heard.told[0][1]
    assert heard.session.following == 0, "the request to the cluster is over"


@pytest.mark.req("R19", "I7.1")
async def test_whoever_goes_away_ends_the_request_to_the_cluster() -> None:
    reached = asyncio.Event()

    async def stays() -> None:
        reached.set()
        await asyncio.Event().wait()

    heard = Listener(Endless(b"one\n"))
    task = asyncio.create_task(heard.follow(stays))
    await reached.wait()
    assert heard.session.following == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard.session.following == 0
    assert heard.told == []


@pytest.mark.req("I7.1")
async def test_the_time_the_bytes_and_the_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = await Listener(Endless(b"one\nhalf of pass")).follow(follow_seconds=1)
    assert answer["lines"] == ["one"]
    assert answer["ended"].startswith("The time is up")
    answer = await Listener(Written(b"x" * 5000)).follow()
    assert (len(answer["lines"][0]), answer["truncated"]) == (4097, True)
    monkeypatch.setattr(following, "MAX_BYTES", 100)
    stream = Endless(*[b"0123456789\n"] * 50)
    answer = await Listener(stream).follow()
    assert (len(answer["lines"]), len(stream.left)) == (10, 40)
    assert "KiB" in answer["ended"]
    monkeypatch.setattr(following, "MAX_LINES", 4)
    answer = await Listener(Endless(*[b"0123456789\n"] * 50)).follow()
    assert len(answer["lines"]) == 4
    assert "4 lines" in answer["ended"]


async def test_the_run_before_is_not_followed() -> None:
    with pytest.raises(InvalidArgument, match="previous"):
        await Listener(Written()).follow(previous=True)
