"""Which changes have no outcome, and what the cluster is asked about them (R21)."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubegate.audit.v1 import audit_pb2
from services.cli import audit_orphans
from services.cli.audit_orphans import CORE, PAGE, _unfinished, question, subject
from services.cli.unfinished import Unfinished
from services.common.deadline import OUTCOME_GRACE

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def intent(name: str, deadline: str = "2026-11-22T11:59:00Z", **fields: Any) -> dict[str, Any]:
    known = {"event_id": name, "writer": CORE, "phase": "intent", "deadline": deadline, "resource": "deployments/web"}
    return known | fields


def outcome(intent_id: str, writer: str = CORE) -> dict[str, Any]:
    return {"event_id": f"o-{intent_id}", "writer": writer, "phase": "outcome", "intent_id": intent_id}


@pytest.mark.req("R21", "I8.7")
def test_an_intent_is_an_orphan_when_its_time_is_over_and_nothing_closed_it() -> None:
    events = [
        intent("closed"),
        intent("open"),
        intent("young", "2026-11-22T12:00:01Z"),
        outcome("closed"),
        outcome("open", "platform/evil"),
        outcome("closed before it came"),
        intent("closed before it came"),
        {"event_id": "whole"},
    ]
    assert [each["event_id"] for each in Unfinished(events).overdue(NOON, 0)] == ["open"]
    later = NOON + timedelta(seconds=1) + OUTCOME_GRACE
    assert [each["event_id"] for each in Unfinished(events).overdue(later)] == ["open"]
    assert Unfinished(events).settled() == later
    assert len(Unfinished(events).overdue(later + timedelta(seconds=1))) == 2


@pytest.mark.req("R21", "I8.7")
async def test_intents_of_every_writer_are_asked_for_page_by_page_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = [[intent("of authn", writer="service/authn"), intent("closed")], [outcome("closed")]]
    asked: list[audit_pb2.QueryRequest] = []

    async def query(stack: Any, request: audit_pb2.QueryRequest) -> tuple[list[audit_pb2.Record], str]:
        asked.append(request)
        records = [audit_pb2.Record(canonical_json=json.dumps(each).encode()) for each in pages[len(asked) - 1]]
        return records, "more" if len(asked) < len(pages) else ""

    monkeypatch.setattr(audit_orphans, "query_records", query)
    stack: Any = None
    found = await _unfinished(stack, "7d")
    assert [each["event_id"] for each in found.overdue(NOON + OUTCOME_GRACE)] == ["of authn"]
    for request in asked:
        assert (request.filter.event_type, request.limit) == (audit_pb2.EVENT_TYPE_UNSPECIFIED, PAGE)
        assert [(each.path, list(each.values)) for each in request.filter.fields] == [("phase", ["intent", "outcome"])]


@pytest.mark.req("I8.7")
def test_the_object_is_found_by_the_permission_which_tells_custom_kinds_apart() -> None:
    widget = intent("x", resource="widgets/a", namespace="d", decision={"permission": "k8s:widgets.example.com:delete"})
    assert subject(widget) == ("widgets.example.com", "d", "a")
    assert subject(intent("x", resource="nodes/n1")) == ("nodes", "", "n1")
    assert subject(intent("x", resource="pods")) == ("pods", "", "")


@pytest.mark.req("I8.7", "I7.1")
def test_the_cluster_that_is_asked_is_the_one_that_the_change_was_for() -> None:
    begun = {"resource": "deployments/web", "namespace": "a", "metadata": {"cluster": "west"}}

    def asked(clusters: Sequence[str], **other: Any) -> Any:
        return question({**begun, **other}, clusters)

    assert asked(["east", "west"])["cluster"] == "west"
    assert "cluster" not in asked(["west"])
    assert "cluster" not in asked([]), "an older gate, which has one"
    assert "which this gate does not have" in asked(["east"])
    assert "which this gate does not have" in asked(["east", "north"])
    assert "unknown" in asked(["east", "north"], metadata={})
    assert asked(["east"], metadata={})["name"] == "web"
    assert "no single object" in asked(["west"], resource="pods")
