"""What the outside relies on: the JSON Schema, the fast encoder, masking, receipts' rules."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audit import canonical
from services.audit.adapters.batch import build, encode
from services.audit.event import EVENT_LIMIT, Decision
from services.audit.json_schema import schema
from services.audit.masking import Masker, is_secret
from services.audit.merkle import Tree, check_consistency, check_inclusion
from services.audit.paths import PATHS
from services.audit.ports import Ack, Draft
from services.audit.proofs import Prover
from services.audit.writers import CORE
from services.common.errors import InvalidArgument
from services.common.ids import uuid7
from tests.unit.audit.support import draft, event, identity, intent, outcome

PUBLISHED = Path(__file__).parents[3] / "configs" / "audit-event.schema.json"


@pytest.mark.req("I4.1")
def test_the_published_schema_is_what_the_code_says() -> None:
    assert json.loads(PUBLISHED.read_text()) == schema(), (
        "run: python -m services.audit.json_schema > configs/audit-event.schema.json"
    )


@pytest.mark.req("I4.1")
def test_every_record_fits_the_schema_and_every_field_of_it_can_be_filtered_by() -> None:
    whole = event(decision=Decision(True, "r", "1", "p"), source_address="192.0.2.1", user_agent="x", trace_id="0" * 32,
                  tenant="blue", unknown=b"x", metadata={"a": "b"})  # fmt: skip
    rich = identity(roles=("admin",), groups=("g",), amr=("otp",), tenant="blue").fields()
    for fields in (whole.fields(CORE) | rich, intent().fields(CORE), outcome(uuid7()).fields(CORE)):
        record = fields | {"sequence": 3}
        jsonschema.validate(record, schema())
        for name, value in record.items():
            if isinstance(value, dict) and name != "metadata":
                assert {f"{name}.{key}" for key in value} <= PATHS
            elif name not in ("metadata", "unknown_fields"):
                assert name in PATHS
    for wrong in ({"event_type": "nonsense"}, {"user": 7}, {"metadata": {"a b": "c"}}, {"duration_ms": -1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(whole.fields(CORE) | {"sequence": 0} | wrong, schema())


texts = st.text(st.characters(codec="utf-8"), max_size=30)
values: st.SearchStrategy[Any] = st.one_of(
    texts,
    st.booleans(),
    st.integers(0, 1 << 53),
    st.integers(0, 10**15).map(lambda n: n / 1000),
    st.lists(texts, max_size=3),
    st.dictionaries(st.text("abcXYZ_.-/09", min_size=1, max_size=9), texts, max_size=4),
)


@pytest.mark.req("R23")
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=9), values, max_size=8))
def test_the_fast_encoder_writes_canonical_json_byte_for_byte(fields: dict[str, Any]) -> None:
    if "\x00" not in json.dumps(fields, ensure_ascii=False).replace("\\u0000", "\x00"):
        assert encode(fields) == canonical.encode(fields)
    assert canonical.decode(encode(fields)) is not None


def test_text_that_no_engine_stores_is_replaced_and_what_only_looks_like_it_stays() -> None:
    made = draft(user="a\x00b", metadata={"k": "\x00", "literal": "\\u0000"})
    batch = build(Tree(), [made, made], {})
    record = canonical.decode(batch.rows[0][1])
    assert (record["user"], record["metadata"]) == ("a\ufffdb", {"k": "\ufffd", "literal": "\\u0000"})
    assert batch.answers == [Ack(made.key[1], 0)] * 2
    assert batch.rows[0][3 + 4] == "a\ufffdb"


@pytest.mark.req("I4.3")
@settings(deadline=None)
@given(st.integers(1, 700), st.data())
def test_proofs_from_kept_nodes_hold_for_every_tree(size: int, data: st.DataObject) -> None:
    leaves = [number.to_bytes(32) for number in range(size)]
    tree, nodes = Tree().extend(leaves)
    kept = {(node.level, node.position): node.hash for node in nodes}
    prover = Prover(
        lambda level, first, end: [kept[level, n] for n in range(first, end)] if level else leaves[first:end], size
    )
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert prover.root() == tree.root()
    check_inclusion(leaves[index], index, size, prover.inclusion(index), tree.root())
    check_consistency(old, prover.root(old), size, tree.root(), prover.consistency(old))
    for wrong in (-1, size):
        with pytest.raises(IndexError):
            prover.inclusion(wrong)


@pytest.mark.req("I4.1")
def test_what_counts_as_a_secrets_name() -> None:
    for name in ("password", "db_passwd", "DB_PASSWORD", "clientSecret", "secrets", "api-key", "apiKey", "x.api_key",
                 "Authorization", "cookie", "refresh_token", "otp", "ssh_private_key", "credentials"):  # fmt: skip
        assert is_secret(name), name
    for name in ("credential_id", "auth_type", "tool", "key", "tokens_used", "monkey", "secretary", "adopt", "count"):
        assert not is_secret(name), name
    fields = draft(metadata={"token": "t", "empty_secret": "", "x": "t"}).fields
    masked = Masker(b"k").mask(dict(fields))["metadata"]
    assert masked["x"] == "t"
    assert masked["empty_secret"] == ""
    assert masked["token"] != Masker(b"other").mask(dict(fields))["metadata"]["token"]


@pytest.mark.req("I4.1")
def test_an_event_is_bounded_as_a_whole_too() -> None:
    small = {f"k{n}": "x" * 4096 for n in range(15)}
    event(metadata=small).check()
    with pytest.raises(InvalidArgument, match=str(EVENT_LIMIT)):
        event(metadata=small, error_message="x" * 4096).check()
    with pytest.raises(InvalidArgument, match="newer contract"):
        event(unknown=b"x" * 20_000).check()
    assert Draft(event().fields(CORE)).key[0] == CORE
