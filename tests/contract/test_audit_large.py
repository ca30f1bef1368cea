"""What is too large for one statement: both engines search it in parts, both ways, and say so when they give up."""

from datetime import timedelta
from typing import Any

import pytest

from services.audit import bounded
from services.audit.adapters.engine import Reads
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.bounded import TooSlow
from services.audit.ports import Filter
from tests.contract.conftest import Open
from tests.fakes.postgres import Postgres
from tests.unit.audit.support import NOW, draft, signer

EVENTS = 60
HITS = [3, 4, 41]
FILTERS = {
    "text": Filter(text="needle"),
    "column": Filter({"action": "delete_pod"}),
    "time": Filter({"action": "delete_pod"}, since=NOW + timedelta(seconds=2), until=NOW + timedelta(seconds=42)),
    "user": Filter({"user": "rare"}),
    "user and time": Filter({"user": "rare"}, since=NOW + timedelta(seconds=2)),
}


def fill(open_store: Open) -> Reads:
    store = open_store()
    rare: dict[str, Any] = {"user": "rare", "action": "delete_pod", "metadata": {"x": "a needle"}}
    store.commit([
        draft(timestamp=NOW + timedelta(seconds=n), **(rare if n in HITS else {})) for n in range(EVENTS)
    ])  # fmt: skip
    reads: Reads = store.reads()
    return reads


@pytest.mark.req("I4.4", "I4.7")
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("chosen", FILTERS.values(), ids=FILTERS)
def test_a_search_in_parts_finds_the_same(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, chosen: Filter, descending: bool
) -> None:
    reads = fill(open_store)
    monkeypatch.setattr(bounded, "SCAN", 7)
    bounds, cursor, found, pages = reads.narrowed(reads.bounds(), chosen), "", list[int](), 0
    while True:
        page = reads.search(chosen, cursor=cursor, bounds=bounds, limit=1, descending=descending)
        found += [record.sequence for record in page.records]
        cursor, pages = page.cursor, pages + 1
        if not cursor:
            break
        assert pages < EVENTS
    assert found == (HITS[::-1] if descending else HITS)
    assert pages >= (3 if chosen.equal == {"user": "rare"} else 6), "no statement opened more than seven"
    reads.close()


@pytest.mark.req("I4.4", "I4.7")
def test_nothing_of_a_time_without_events_is_opened(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = fill(open_store)
    monkeypatch.setattr(bounded, "SCAN", 7)
    for nothing in (Filter(since=NOW + timedelta(days=1)), Filter(until=NOW)):
        bounds = reads.narrowed(reads.bounds(), nothing)
        page = reads.search(nothing, cursor="", bounds=bounds, limit=1, descending=False)
        assert (list(page.records), page.cursor) == ([], "")
    reads.close()


@pytest.mark.req("I4.4", "I4.7", "R27")
def test_a_statement_that_takes_too_long_is_given_up_in_words_and_the_next_one_works(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(postgres.socket_url(), "test", signer())
    store.commit([draft()])
    monkeypatch.setattr(bounded, "PATIENCE", 0.01)
    reads = store.reads()
    with pytest.raises(TooSlow, match="narrow it to less time"):
        reads._all("SELECT pg_sleep(30)", ())
    connection = reads._connection
    assert reads._all("SELECT 1", ()) == [(1,)]
    assert reads._connection is connection, "only the statement is given up"
    reads.close()
    store.close()
