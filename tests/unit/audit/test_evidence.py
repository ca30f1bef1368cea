"""The evidence pack: what it lists, what it says about completeness, and what a hostile record cannot do to it."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.audit.event import EventType, Phase, Result
from services.cli.evidence import CONTROLS, LISTED, Completeness, Holder, pack
from services.cli.evidence_html import page
from tests.unit.audit.support import NOW, event, identity

MADE = datetime(2027, 1, 1, tzinfo=UTC)
WHOLE = Completeness(9, "ab" * 32, "log+key", 3, checked=("leaves",))


def recorded(number: int, **changes: Any) -> dict[str, Any]:
    verified = changes.pop("verified", True)
    kinds: dict[str, Any] = {"event_type": EventType, "result": Result, "phase": Phase}
    changes = {name: kinds[name](value) if name in kinds else value for name, value in changes.items()}
    fields = event(**changes).fields("service/mcp-core") | {"sequence": number}
    return fields | identity(fields["user"]).fields() if verified else fields


EVENTS = [
    recorded(0, event_type="mcp_request", action="scale_deployment", phase="intent", result="unknown", deadline=NOW),
    recorded(1, event_type="mcp_request", action="scale_deployment", phase="outcome"),
    recorded(2, event_type="mcp_request", action="list_pods"),
    recorded(3, event_type="authorization", result="failure", user="eve", error_message="no grant"),
    recorded(4, event_type="authentication", result="failure", user="", verified=False, metadata={"count": "7"}),
    recorded(5, event_type="security_violation", result="failure", user="mallory", verified=False),
    recorded(6, event_type="admin", action="keys.create", resource="keys/k1"),
    recorded(7, event_type="admin", action="audit.Query"),
    recorded(8, event_type="compliance", action="access-review", metadata={"control": "CC6.3", "other": "hidden"}),
]
HOLDERS = [
    Holder("k1", "alice", "", ["admin"], ["k8s:* everywhere (role admin)"], True, "2026-01-01T00:00:00Z", "", ""),
    Holder("k2", "zoe", "blue", [], [], False, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
]


@pytest.fixture(autouse=True)
def _outcome_belongs_to_intent() -> None:
    EVENTS[1]["intent_id"] = EVENTS[0]["event_id"]


def made(events: list[dict[str, Any]] | None = None, whole: Completeness = WHOLE) -> dict[str, Any]:
    return pack(NOW - timedelta(days=1), NOW, MADE, HOLDERS, events or EVENTS, whole)


@pytest.mark.req("I4.5")
def test_every_section_lists_its_own_events_and_names_its_controls() -> None:
    sections = made()["sections"]
    listed = {
        name: [each["sequence"] for each in section["events"]]
        for name, section in sections.items()
        if "events" in section
    }
    assert listed == {
        "privileged_actions": [1],
        "denials": [3, 4],
        "violations": [5],
        "changes": [6],
        "audit_access": [7],
        "attestations": [8],
    }
    assert {name: section["controls"] for name, section in sections.items()} == CONTROLS
    for controls in CONTROLS.values():
        assert all(re.fullmatch(r"CC[1-9]\.\d", each) for each in controls["SOC 2"])
        assert all(re.fullmatch(r"A\.[58]\.\d+", each) for each in controls["ISO 27001"])


@pytest.mark.req("I4.5")
def test_looking_is_no_change_and_a_legal_hold_is_one() -> None:
    actions = ["keys.list", "policy.explain", "keys.list-signing", "audit.PlaceHold", "audit.Query", "keys.disable"]
    sections = made([recorded(n, event_type="admin", action=action) for n, action in enumerate(actions)])["sections"]
    assert [each["sequence"] for each in sections["changes"]["events"]] == [3, 5]
    assert [each["sequence"] for each in sections["audit_access"]["events"]] == [4]


@pytest.mark.req("I4.5")
def test_the_access_review_says_who_can_do_what_and_when_they_last_did() -> None:
    review = made()["sections"]["access_review"]
    first, second = review["holders"]
    assert (first["identity"], first["findings"]) == ("alice", ["never used", "does not expire", "full rights"])
    assert first["events_in_period"] == 6
    assert (second["enabled"], second["findings"], second["last_used"]) == (False, [], "2026-02-01T00:00:00Z")
    assert [(each["user"], each["denied"]) for each in review["others"]] == [("eve", 1)]


@pytest.mark.req("I4.5", "R21")
def test_completeness_names_gaps_of_the_log_and_intents_without_outcome() -> None:
    assert made()["sections"]["completeness"]["unfinished"] == []
    found = made([EVENTS[0], *EVENTS[2:]])["sections"]["completeness"]
    assert [each["sequence"] for each in found["unfinished"]] == [0]
    assert (found["first_sequence"], found["last_sequence"], found["events_in_period"]) == (0, 8, 8)
    # Neither what is under way is unknown, nor what ended after the period.
    under_way = recorded(9, event_type="mcp_request", phase="intent", deadline=MADE - timedelta(seconds=179))
    assert made([*EVENTS, under_way])["sections"]["completeness"]["unfinished"] == []
    straddling = pack(NOW - timedelta(days=1), NOW, MADE, HOLDERS, EVENTS[:1], WHOLE, later=EVENTS[1:2])
    assert straddling["sections"]["completeness"]["unfinished"] == []
    assert straddling["summary"]["events"] == 1
    broken = Completeness(0, "", "", 0, problem="event 4 is altered")
    assert "event 4 is altered" in page(made(whole=broken))
    assert "whole and unaltered" not in page(made(whole=broken))
    assert "whole and unaltered: 9 events" in page(made())


@pytest.mark.req("I4.5")
def test_what_others_wrote_is_text_on_the_page_and_long_sections_are_cut_with_a_count() -> None:
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    hostile = [
        recorded(
            n, event_type="authorization", result="failure", user=evil, action=evil, error_message=evil, namespace=evil
        )
        for n in range(LISTED + 3)
    ]
    html = page(made(hostile))
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "default-src 'none'" in html
    assert "3 more are in the record" in html
    assert not re.search(r"(src|href)=\"(?!#)", html)
