"""Following a log: redacted before it is told, asked again before it is told, bounded, and over when it is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.common.errors import InvalidArgument, PermissionDenied
from services.mcp_core.model import Dialogue
from services.mcp_core.ports import LogText
from services.mcp_core.redaction import MARK
from services.mcp_core.tools import REGISTRY, check_output, following, validate
from services.mcp_core.tools.base import Invocation
from services.mcp_core.tools.log_stamps import Unstamped, since, unstamped
from tests.unit.mcp_core.tools.session import MemorySession, Written

TOOL = REGISTRY["get_pod_logs"]
SECRET = "s3cr3t-of-the-log"
END = "-----END PRIVATE KEY-----"


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
    assert [(verb, rest["tail"]) for verb, _, rest in heard.session.asked] == [("logs", 100), ("follow", 100)]
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


def stamped(*lines: str, first: int = 0) -> bytes:
    """Lines of a log with the times that the cluster writes before them."""
    return "".join(
        f"2026-11-28T12:00:0{(first + at) // 10}.{(first + at) % 10}5Z {line}\n" for at, line in enumerate(lines, 1)
    ).encode()


@pytest.mark.req("R26", "I7.4")
@pytest.mark.parametrize("size", [1, 7, 33, 100_000])
async def test_what_is_there_is_read_whole_and_followed_from_its_last_line(size: int) -> None:
    there = ["MIIEvQIBADANBg", f"{END} done", "token=alpha", "twice", "twice"]
    new = ["twice", f"password={SECRET}", "2026-11-28T12:00:00Z of the line itself"]
    sent = stamped(*there, *new)
    heard = Listener(Written(*(sent[at : at + size] for at in range(0, len(sent), size))))
    heard.session.log = LogText((stamped(*there) + b"2026-11-28T12:00:00.95Z half").decode(), False)
    answer = await heard.follow()
    assert answer["lines"] == [
        f"{MARK} done",
        "token=[redacted]",
        "twice",
        "twice",
        "twice",
        f"password={MARK}",
        new[2],
    ]
    (_, _, since) = heard.session.asked[1]
    assert (since["tail"], since["since"]) == (None, "2026-11-28T12:00:00Z"), "whole seconds are what a cluster knows"
    assert heard.asked > 1, "what was there is told when policy has been asked again"


@pytest.mark.req("R26")
@pytest.mark.parametrize("prefix", ["", "app|"])
async def test_a_key_that_begins_in_what_is_there_goes_on_in_what_comes(prefix: str) -> None:
    body = ["short" + str(at) for at in range(4)]
    there = ["started", f"{prefix}-----BEGIN PRIVATE KEY-----", *body[:2]]
    heard = Listener(Written(stamped(*there, *body[2:], prefix + "-----END PRIVATE KEY-----", "next")))
    heard.session.log = LogText(stamped(*there).decode(), True)
    assert (await heard.follow())["lines"] == ["started", prefix + MARK, "next"]


def test_times_are_compared_as_times() -> None:
    text, last = unstamped("2026-11-28T12:00:00.1Z a\n2026-11-28T14:00:00.12+02:00 b\n2026-11-28T12:00:00.2Z half")
    assert (text, last, since(last)) == ("a\nb", "2026-11-28T14:00:00.12+02:00", "2026-11-28T12:00:00Z")
    fresh = Unstamped(last)
    assert fresh.feed(
        b"2026-11-28T12:00:00.1Z a\n2026-11-28T12:00:00.12Z b\n2026-11-28T12:00:00.123Z c\nno time\n"
    ) == (b"c\nno time\n")
    assert fresh.feed(b"2026-11-28T11:00:00Z after the clock was set back\n") == b"after the clock was set back\n"


@pytest.mark.req("R25")
async def test_many_small_pieces_are_redacted_beside_the_loop_once_they_are_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aside: list[int] = []

    async def to_thread(work: Callable[..., Any], *given: Any) -> Any:
        aside.append(1)
        return work(*given)

    class Slow(Written):
        async def read(self, seconds: float) -> bytes | None:
            await asyncio.sleep(seconds)
            return await super().read(seconds)

    monkeypatch.setattr("services.mcp_core.tools.following.asyncio.to_thread", to_thread)
    held = (b"Ab3" * 12 + b" x" * 200 + b"\n") * 3
    heard = Listener(Slow(*[held] * 15))
    await heard.follow()
    assert aside, "what is held counts, and the end is redacted beside the loop too"
