"""A log that is redacted while it is written: no secret leaves in pieces, and nothing is held back for long (R26)."""

from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mcp_core.redaction import MARK, redact
from services.mcp_core.redaction_stream import StreamRedactor
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


def test_what_looks_like_a_key_and_is_none_leaves_with_the_lines_after_it() -> None:
    redactor = StreamRedactor()
    assert redactor.feed(f"{KEY[0]}\n".encode()) == []
    assert redactor.feed(b"word\n") == []
    assert redactor.feed(b"then a sentence.\n") == [KEY[0], "word", "then a sentence."]


@pytest.mark.req("R26")
def test_half_a_line_is_told_only_when_the_log_ended_with_it() -> None:
    text = "one\ntoken kg_abc_" + "a" * 10
    assert fed(text, 4, whole=False) == ["one"]
    assert fed("one\ntwo", 4) == ["one", "two"]
