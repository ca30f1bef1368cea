"""Canonical JSON: one spelling for one record (R23)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit import canonical
from services.audit.canonical import NotCanonical
from services.audit.event import EventType
from services.audit.writers import CORE
from tests.unit.audit.support import event

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.req("R23")
def test_keys_are_sorted_and_nothing_is_escaped_that_need_not_be() -> None:
    assert canonical.encode({"b": "é\n\u2028", "a": 1, "c": {"z": True, "y": []}}) == (
        '{"a":1,"b":"é\\n\u2028","c":{"y":[],"z":true}}'.encode()
    )


@given(st.dictionaries(text, values, max_size=4))
def test_what_is_encoded_decodes_to_itself_and_is_one_line(value: dict[str, object]) -> None:
    data = canonical.encode(value)
    assert b"\n" not in data
    assert canonical.decode(data) == value


@pytest.mark.req("R23")
@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":"\\u0041"}',
        b'{"a":1}\n',
        b"[1]",
        b"\xff",
        b"",
        b'{"a":NaN}',
        b"[" * 100_000,
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        canonical.decode(data)


def test_numbers_have_one_spelling() -> None:
    for given_, stored in ((5.0, "5"), (0.1 + 0.2, "0.3"), (1234.56789, "1234.568"), (0.0004, "0")):
        fields = event(duration_ms=given_).fields(CORE)
        assert f'"duration_ms":{stored},' in canonical.encode(fields).decode()


@pytest.mark.req("I2.5")
def test_the_fields_of_the_users_format_are_always_there() -> None:
    fields = json.loads(canonical.encode(event(event_type=EventType.AUTHENTICATION, user="").fields(CORE)))
    assert {
        "timestamp", "event_id", "event_type", "user", "action", "resource", "namespace", "result",
        "error_message", "metadata", "duration_ms",
    } <= set(fields)  # fmt: skip
    assert fields["timestamp"] == "2026-11-22T12:00:00.000000Z"
    assert "tenant" not in fields
