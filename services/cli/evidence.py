"""An evidence pack for an auditor, worked out from the record and from who may do what. Pure: no service is asked.

Every section names the controls that it speaks to: SOC 2 (Trust Services Criteria), ISO/IEC 27001:2022 Annex A and
PCI DSS 4. It is evidence, not a verdict: whether a control is met is the auditor's to say.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.cli.unfinished import Unfinished

Event = Mapping[str, Any]

LISTED = 500
"""Events of one section that are listed; the rest is counted."""


CONTROLS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "access_review": {
        "SOC 2": ["CC6.1", "CC6.2", "CC6.3"], "ISO 27001": ["A.5.15", "A.5.18", "A.8.2"],
        "PCI DSS": ["7.2.4", "10.2.1"],
    },
    "privileged_actions": {
        "SOC 2": ["CC6.1", "CC7.2"], "ISO 27001": ["A.8.2", "A.8.15"], "PCI DSS": ["10.2.1.2"],
    },
    "denials": {
        "SOC 2": ["CC6.1", "CC6.6", "CC7.2"], "ISO 27001": ["A.8.3", "A.8.16"], "PCI DSS": ["10.2.1.4"],
    },
    "violations": {
        "SOC 2": ["CC7.3", "CC7.4"], "ISO 27001": ["A.5.25", "A.5.26"], "PCI DSS": ["10.4.1", "10.7.2"],
    },
    "changes": {
        "SOC 2": ["CC6.2", "CC6.3", "CC8.1"], "ISO 27001": ["A.5.16", "A.5.17", "A.8.32"], "PCI DSS": ["10.2.1.5"],
    },
    "audit_access": {
        "SOC 2": ["CC6.1", "CC7.2"], "ISO 27001": ["A.8.15"], "PCI DSS": ["10.2.1.3", "10.3.1"],
    },
    "attestations": {
        "SOC 2": ["CC4.1", "CC7.5"], "ISO 27001": ["A.5.35", "A.5.36"], "PCI DSS": ["10.4.1"],
    },
    "completeness": {
        "SOC 2": ["CC7.1", "CC7.2"], "ISO 27001": ["A.5.28", "A.5.33", "A.8.15"],
        "PCI DSS": ["10.2", "10.3.2", "10.3.4"],
    },
}  # fmt: skip

KEEPING = frozenset({"audit.PlaceHold", "audit.ReleaseHold", "audit.Retire"})
"""Actions on the record that decide how long it is kept: changes, not readings."""

LOOKS = (".list", ".list-signing", ".explain")
"""How actions of administrators end that change nothing."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A credential and what it grants. Times are RFC 3339 or empty."""

    credential: str
    identity: str
    tenant: str
    roles: Sequence[str]
    grants: Sequence[str]
    enabled: bool
    created: str
    expires: str
    last_used: str


@dataclass(frozen=True, slots=True)
class Completeness:
    """What was found about the whole log. ``problem`` is empty where it is intact."""

    events: int
    root: str
    """Base64, as in checkpoints and of `kubegate audit verify`."""
    public_key: str
    checkpoints: int
    problem: str = ""
    checked: Sequence[str] = ()


@dataclass(slots=True)
class _Seen:
    last: str = ""
    count: int = 0
    denied: int = 0
    credentials: set[str] = field(default_factory=set)


def pack(
    begin: datetime,
    end: datetime,
    made: datetime,
    holders: Sequence[Holder],
    events: Sequence[Event],
    completeness: Completeness,
    later: Sequence[Event] = (),
) -> dict[str, Any]:
    """The pack as JSON. ``events``: those of the period by their own time, in the order of the log. ``later``: outcomes
    that came after it, of what was begun in it."""
    seen = _seen(events)
    sections = {
        "access_review": {
            "title": "Access review: who can do what, and when they last did",
            "holders": [_holder(holder, seen.get(holder.identity)) for holder in holders],
            "others": _others(seen, {holder.identity for holder in holders}),
        },
        "privileged_actions": _listed("Privileged actions: changes to the cluster", filter(_privileged, events)),
        "denials": _listed("Denials: refused authentications and authorizations", filter(_denied, events)),
        "violations": _listed(
            "Security violations", (each for each in events if each["event_type"] == "security_violation")
        ),
        "changes": _listed("Changes of policy, credentials and retention", filter(_change, events)),
        "audit_access": _listed("Readings of the record itself", filter(_reading, events)),
        "attestations": _listed("Attestations", (each for each in events if each["event_type"] == "compliance")),
        "completeness": {
            "title": "Completeness and integrity of the record",
            "intact": not completeness.problem,
            "problem": completeness.problem,
            "events_in_log": completeness.events,
            "events_in_period": len(events),
            "first_sequence": min((each["sequence"] for each in events), default=None),
            "last_sequence": max((each["sequence"] for each in events), default=None),
            "signed_roots": completeness.checkpoints,
            "root": completeness.root,
            "public_key": completeness.public_key,
            "checked": list(completeness.checked),
            "unfinished": [_short(each) for each in Unfinished([*events, *later]).overdue(made)],
        },
    }
    for name, section in sections.items():
        section["controls"] = CONTROLS[name]
    return {
        "framework": "SOC 2",
        "from": begin.isoformat(),
        "to": end.isoformat(),
        "made_at": made.isoformat(),
        "summary": _summary(events),
        "sections": sections,
    }


def _summary(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "events": len(events),
        "by_type": dict(sorted(Counter(str(each["event_type"]) for each in events).items())),
        "by_result": dict(sorted(Counter(str(each["result"]) for each in events).items())),
        "people": len({each["user"] for each in events if each["user_source"] == "verified"}),
    }


def _seen(events: Iterable[Event]) -> dict[str, _Seen]:
    """Verified users in the period."""
    seen: dict[str, _Seen] = {}
    for each in events:
        if each["user_source"] != "verified":
            continue
        one = seen.setdefault(each["user"], _Seen())
        one.count += 1
        one.denied += each["result"] == "failure"
        one.last = max(one.last, each["timestamp"])
        one.credentials.add(each.get("principal", {}).get("credential_id", ""))
    return seen


def _holder(holder: Holder, seen: _Seen | None) -> dict[str, Any]:
    return {
        "credential": holder.credential,
        "identity": holder.identity,
        "tenant": holder.tenant,
        "roles": list(holder.roles),
        "grants": list(holder.grants),
        "enabled": holder.enabled,
        "created": holder.created,
        "expires": holder.expires,
        "last_used": holder.last_used,
        "events_in_period": seen.count if seen else 0,
        "denied_in_period": seen.denied if seen else 0,
        "findings": _findings(holder),
    }


def _findings(holder: Holder) -> list[str]:
    findings = []
    if holder.enabled and not holder.last_used:
        findings.append("never used")
    if holder.enabled and not holder.expires:
        findings.append("does not expire")
    if any(grant.startswith(("k8s:* ", "kubegate:*")) for grant in holder.grants):
        findings.append("full rights")
    return findings


def _others(seen: Mapping[str, _Seen], known: set[str]) -> list[dict[str, Any]]:
    return [
        {"user": user, "events": one.count, "denied": one.denied, "last_seen": one.last,
         "credentials": sorted(one.credentials - {""})}
        for user, one in sorted(seen.items()) if user not in known
    ]  # fmt: skip


def _privileged(each: Event) -> bool:
    """A change that was executed or tried: its outcome; reads are in the record as one event without a phase."""
    return each["event_type"] == "mcp_request" and each.get("phase") == "outcome"


def _denied(each: Event) -> bool:
    return each["result"] == "failure" and each["event_type"] in ("authentication", "authorization")


def _change(each: Event) -> bool:
    action = str(each["action"])
    changes = action in KEEPING or (not action.startswith("audit.") and not action.endswith(LOOKS))
    return each["event_type"] == "admin" and each.get("phase") != "intent" and changes


def _reading(each: Event) -> bool:
    action = str(each["action"])
    begins = "phase" not in each
    return each["event_type"] == "admin" and action.startswith("audit.") and action not in KEEPING and begins


def _listed(title: str, events: Iterable[Event]) -> dict[str, Any]:
    found = list(events)
    return {
        "title": title,
        "count": len(found),
        "by_user": dict(Counter(str(each["user"]) or "-" for each in found).most_common(20)),
        "events": [_short(each) for each in found[:LISTED]],
        "not_listed": max(len(found) - LISTED, 0),
    }


def _short(each: Event) -> dict[str, Any]:
    """An event as the pack lists it; ``sequence`` leads to the whole of it in the log."""
    decision = each.get("decision", {})
    return {
        "sequence": each["sequence"],
        "time": each["timestamp"],
        "user": each["user"],
        "verified": each["user_source"] == "verified",
        "action": each["action"],
        "resource": "/".join(part for part in (each["namespace"], each["resource"]) if part),
        "result": each["result"],
        "why": each["error_message"] or decision.get("rule", ""),
        "details": {key: value for key, value in sorted(each["metadata"].items()) if key in _DETAILS},
    }


_DETAILS = (
    "count", "violation_type", "revision", "previous_revision", "framework", "control", "ticket", "roles",
    "permissions", "permission_check", "permission", "auth_type", "reviewer", "note",
)  # fmt: skip
"""Metadata that the pack shows."""
