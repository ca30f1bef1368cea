"""Errors, deadlines, identifiers and logs."""

import io
import json
import logging
import sys
from uuid import UUID

import pytest
import structlog

from services.common import log
from services.common.deadline import Deadline
from services.common.errors import Code, DomainError, Internal, Unavailable, from_code
from services.common.ids import uuid7


def test_every_error_survives_the_wire() -> None:
    for cls in DomainError.__subclasses__():
        if cls is not Internal and cls.__module__ == DomainError.__module__:
            error = from_code(cls.code, "why")
            assert type(error) is cls and error.public_message == "why"


@pytest.mark.parametrize("code", [Code.INTERNAL, 2, 11, 99])
def test_an_unknown_code_hides_its_message(code: int) -> None:
    assert from_code(code, "kg_id_secret").public_message == Internal.SENTENCE


def test_unavailable_says_when_to_come_back() -> None:
    assert Unavailable("away").retry_after is not None


def test_a_deadline_shrinks_at_each_hop_and_is_refused_when_short() -> None:
    deadline = Deadline.after(1)
    assert deadline.child().at == deadline.at - 0.020
    with pytest.raises(DomainError) as caught:
        Deadline.after(0.11).child()
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_uuid7_has_its_version_and_sorts_by_time() -> None:
    values = [UUID(uuid7()) for _ in range(50)]
    assert all(value.version == 7 and value.variant == "specified in RFC 4122" for value in values)
    assert len(set(values)) == 50
    assert [value.int >> 80 for value in values] == sorted(value.int >> 80 for value in values)


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"note": "key kg_abc_hunter2 was used"},
        {"note": "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2"},
        {"principal_token": "hunter2"},
        {"authorization": "Bearer hunter2"},
    ],
    ids=str,
)
def test_logs_never_carry_a_secret(fields: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("test")
    try:
        log.get_logger("part").warning("something", **fields)
    finally:
        structlog.reset_defaults()
    line = json.loads(stream.getvalue())
    assert line["service"] == "test" and line["component"] == "part" and line["event"] == "something"
    assert "hunter2" not in stream.getvalue()


@pytest.mark.req("I9.16")
def test_an_outage_is_two_lines_however_often_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("test")
    try:
        outage = log.Outage(log.get_logger("part"), "away", "back", level=logging.ERROR, peer="authn")
        outage.worked()
        for attempt in range(3):
            outage.failed(attempt=str(attempt))
        for _ in range(2):
            outage.worked()
        outage.failed(attempt="again")
    finally:
        structlog.reset_defaults()
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"], line.get("attempt"), line["peer"]) for line in said] == [
        ("away", "error", "0", "authn"),
        ("back", "info", None, "authn"),
        ("away", "error", "again", "authn"),
    ]
