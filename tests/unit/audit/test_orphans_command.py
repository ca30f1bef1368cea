"""Which changes have no outcome, and what the cluster is asked about them (R21)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from services.cli.audit_orphans import question, subject, unfinished

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def intent(name: str, deadline: str = "2026-11-22T11:59:00Z", **fields: Any) -> dict[str, Any]:
    return {"event_id": name, "phase": "intent", "deadline": deadline, "resource": "deployments/web"} | fields


@pytest.mark.req("R21", "I8.7")
def test_an_intent_is_an_orphan_when_its_time_is_over_and_nothing_closed_it() -> None:
    events = [
        intent("closed"),
        intent("open"),
        intent("young", "2026-11-22T12:00:01Z"),
        {"event_id": "o", "phase": "outcome", "intent_id": "closed"},
        {"event_id": "whole"},
    ]
    assert [each["event_id"] for each in unfinished(events, NOON)] == ["open"]


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
