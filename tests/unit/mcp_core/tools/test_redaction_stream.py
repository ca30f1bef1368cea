"""A log that is redacted while it is written: no secret leaves in pieces, and nothing is held back for long (R26)."""

from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mcp_core.redaction import MARK, redact
from services.mcp_core.redaction_stream import CALM_LINES, CALM_SECONDS, HELD, LINE, StreamRedactor
from tests.unit.mcp_core.tools.test_redaction import CANARY, SECRETS

BODY = base64.b64encode(random.Random(7).randbytes(300)).decode()
KEY = [BODY[at : at + 64] for at in range(0, len(BODY), 64)]
END = "-----END RSA PRIVATE KEY-----"


def fed(text: str, size: int, *, whole: bool = True) -> list[str]:
    """The lines that leave when the text comes in pieces of so many bytes."""
    data, redactor = text.encode(), StreamRedactor()
    lines = [line for at in range(0, len(data), size) for line in redactor.feed(data[at : at + size])]
    return lines + redactor.end(whole=whole)


@pytest.mark.req("R26", "I7.4")
@pytest.mark.parametrize("size", [1, 3, 7, 64, 100_000])
@pytest.mark.parametrize("place", ["{}", "before\n{}\nafter", "2026-11-22T10:00:00Z ERROR main: {}"])
def test_a_secret_in_pieces_leaves_no_trace(size: int, place: str) -> None:
    for secret in SECRETS:
        # A key of which only the end is seen is known by lines as long as PEM's; see below.
        if "MIIE" in secret:
            continue
        clean = fed(place.format(secret.format(CANARY)), size)
        assert CANARY not in "\n".join(clean), secret
        assert any(MARK in line for line in clean), secret


@given(st.lists(st.one_of(st.text(max_size=40), st.sampled_from(SECRETS))), st.integers(1, 50))
def test_it_is_what_the_whole_would_be(lines: list[str], size: int) -> None:
    text = "\n".join(lines)
    if "PRIVATE KEY" in text:
        return
    assert fed(text + "\n", size) == redact(text).split("\n")


@pytest.mark.req("R26")
@pytest.mark.parametrize("prefix", ["", "2026-11-22T10:00:00Z stderr F "])
def test_the_rest_of_a_key_that_began_before_is_not_told(prefix: str) -> None:
    text = "\n".join(prefix + line for line in [*KEY, END, "started"])
    for size in (1, 50, 10_000):
        assert fed(text, size) == [MARK, prefix + "started"]
    # Nor is what may be one, when the time is up before it shows.
    assert fed("\n".join([*KEY, ""]), 10, whole=False) == [MARK]


@pytest.mark.req("R26")
def test_a_key_goes_from_its_begin_to_its_end_whatever_comes_in_between() -> None:
    text = f"ok\nread -----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4\nx y\n{END} done\nnext"
    assert fed(text, 5) == ["ok", f"read {MARK}", " done", "next"]


def test_ordinary_lines_leave_at_once() -> None:
    redactor = StreamRedactor()
    digest = "pulled sha256:" + "4c1c50d0ffc614f9" * 4
    assert redactor.feed(f"{digest}\nworker started\nhalf".encode()) == [digest, "worker started"]
    assert redactor.feed(b" a line\n") == ["half a line"]


ROUNDS = [
    "{}", "level=info msg={}", '"{}",', "app|{}", "[app]{}", "{},", "stdout:{}", "+{}", "> {}", "{}$", "{}\\n", "{}\r",
    '    "{}\\n" +', '{{"log":"{}\\n"}}',
]  # fmt: skip


@pytest.mark.req("R26")
@pytest.mark.parametrize("form", ROUNDS)
@pytest.mark.parametrize("between", [[], ["GET /healthz 200"], ["", "short", "about a PRIVATE KEY of yours"]])
def test_whatever_stands_around_and_between_its_lines_a_body_goes_with_its_end(form: str, between: list[str]) -> None:
    lines = [told for line in KEY for told in (form.format(line), *between)]
    for size in (7, 100_000):
        clean = "\n".join(fed("\n".join([*lines, form.format(END), "next", ""]), size))
        assert not any(line[:16] in clean for line in KEY), clean
        assert clean.endswith("next")


@pytest.mark.req("R26")
@pytest.mark.parametrize(
    "tail",
    [
        [*KEY, "=hunter2secret", "-----END PGP PRIVATE KEY BLOCK-----"],
        [KEY[0], "hunter2secret", KEY[1], END],
        [KEY[0], "hunter2secret", "about a PRIVATE KEY", END],
        ["Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-256-CBC,hunter2secret", "", KEY[0], END],
    ],
)
def test_nor_does_a_line_of_it_that_looks_like_none(tail: list[str]) -> None:
    clean = "\n".join(fed("\n".join(["before", *tail, "after"]), 11))
    assert "hunter2secret" not in clean
    assert KEY[0] not in clean


def test_what_looks_like_a_key_and_is_none_leaves_after_some_lines_or_a_while() -> None:
    redactor = StreamRedactor()
    assert redactor.feed(f"{KEY[0]}\n".encode()) == []
    others = [f"line {number}" for number in range(CALM_LINES)]
    assert redactor.feed("".join(f"{line}\n" for line in others[:-1]).encode()) == []
    assert redactor.feed(f"{others[-1]}\n".encode()) == [KEY[0], *others]
    assert redactor.feed(f"{KEY[1]}\nword\n".encode(), 10.0) == []
    assert redactor.feed(b"", 10.0 + CALM_SECONDS / 2) == []
    assert redactor.feed(b"half", 10.0 + CALM_SECONDS) == [KEY[1], "word"]
    assert redactor.end(whole=True) == ["half"]


@pytest.mark.req("R26")
def test_when_the_time_is_up_other_lines_than_those_of_a_body_are_told() -> None:
    assert fed("\n".join([KEY[0], KEY[1], "the rest", "a line", ""]), 9, whole=False) == [MARK, "a line"]
    assert fed(f"{KEY[0]}\na line\n", 9) == [KEY[0], "a line"], "no end comes any more"


@pytest.mark.req("R25", "R26")
def test_what_is_held_and_what_has_begun_are_bounded() -> None:
    redactor = StreamRedactor()
    for _ in range(100):
        redactor.feed((KEY[0] + " " + "x y" * 500 + "\n").encode())
        assert redactor.pending <= HELD
    redactor = StreamRedactor()
    for _ in range(50):
        redactor.feed(b"x" * 1000)
        assert redactor.pending <= LINE
    assert [len(line) for line in redactor.feed(b"\nnext\n")] == [4]


@pytest.mark.req("R26")
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_key_that_begins_or_ends_beyond_the_bound_of_a_line_is_seen(size: int) -> None:
    far = "x" * (LINE - 10)
    assert fed(f"{far}-----BEGIN PRIVATE KEY-----\nhidden\n{END}\nnext\n", size)[1:] == ["next"]
    assert fed(f"-----BEGIN PRIVATE KEY-----\n{far * 3}{END}\nnext\n", size) == [MARK, "next"]
    (line, after) = fed(f"{far} password=hunter2secret\nnext\n", size)
    assert "hunter2" not in line
    assert after == "next"


@pytest.mark.req("R26")
def test_what_stood_before_says_whether_a_key_goes_on() -> None:
    redactor = StreamRedactor()
    redactor.after("told\n-----BEGIN PRIVATE KEY-----\nfirst")
    assert redactor.feed(f"second\n{END}\nnext\n".encode()) == ["next"]
    redactor.after(f"{KEY[0]}\npassword: |")
    assert redactor.feed(b"  hunter2\n") == []
    assert redactor.end(whole=True) == [f"  {MARK}"], "and nothing of what was told before is told again"


@pytest.mark.req("R26")
def test_half_a_line_is_told_only_when_the_log_ended_with_it() -> None:
    text = "one\ntoken kg_abc_" + "a" * 10
    assert fed(text, 4, whole=False) == ["one"]
    assert fed("one\ntwo", 4) == ["one", "two"]
