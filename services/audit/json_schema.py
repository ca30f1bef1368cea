"""The record as JSON Schema: ``python -m services.audit.json_schema > configs/audit-event.schema.json``.

For whoever reads exports, the mirror or a shipper's copy. Readers keep what they do not know: a newer kubegate may
add fields.
"""

import json
from typing import Any

from services.audit.event import (
    CLAIMS,
    EVENT_LIMIT,
    MESSAGE_LIMIT,
    METADATA_KEY,
    METADATA_LIMIT,
    NAME_LIMIT,
    EventType,
    Phase,
    Result,
)

_UUID7 = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"


def _text(says: str, limit: int = NAME_LIMIT) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit, "description": says}


def _one_of(kind: type[Any], says: str) -> dict[str, Any]:
    return {"enum": [member.value for member in kind], "description": says}


def _object(says: str, required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "description": says, "properties": properties, "required": required}


def schema() -> dict[str, Any]:
    """The schema of one record."""
    claims = {"type": "array", "maxItems": CLAIMS, "items": {"type": "string"}}
    users_fields = {
        "timestamp": {
            "type": "string",
            "pattern": _TIME,
            "description": "When, by the writer's clock, in UTC",
        },
        "event_id": {"type": "string", "pattern": _UUID7, "description": "Chosen by the writer; stored once"},
        "event_type": _one_of(EventType, "Kind; who may write which is fixed"),
        "user": _text("Who; see user_source"),
        "action": _text("What was asked for: a tool, an RPC, authenticate") | {"minLength": 1},
        "resource": _text("On what: pods/web-1"),
        "namespace": _text("Namespace; empty outside namespaces"),
        "result": _one_of(Result, "Done, refused, tried without success, or not known"),
        "error_message": _text("Why it failed, without secrets", MESSAGE_LIMIT),
        "metadata": {
            "type": "object",
            "maxProperties": METADATA_LIMIT,
            "propertyNames": {"pattern": f"^{METADATA_KEY.pattern}$"},
            "additionalProperties": _text("A value named secret is hmac-sha256:<key id>:<digest>", EVENT_LIMIT),
        },
        "duration_ms": {"type": "number", "minimum": 0, "maximum": 1e12},
    }
    added = {
        "sequence": {"type": "integer", "minimum": 0, "description": "Leaf index in the log"},
        "writer": _text("SPIFFE path of the writer's certificate"),
        "user_source": {
            "enum": ["verified", "asserted"],
            "description": "By a principal token, or the writer's word",
        },
    }
    optional = {
        "tenant": _text("Tenant of the user"),
        "principal": _object(
            "Claims of the verified principal",
            ["issuer", "subject", "credential_id", "auth_type"],
            issuer={"type": "string"},
            subject={"type": "string"},
            credential_id={"type": "string"},
            auth_type={"type": "string"},
            roles=claims,
            groups=claims,
            amr=claims,
            actors=claims,
        ),
        "decision": _object(
            "The policy decision that it rests on",
            ["allowed", "rule", "policy_revision", "permission"],
            allowed={"type": "boolean"},
            rule={"type": "string"},
            policy_revision={"type": "string"},
            permission={"type": "string"},
        ),
        "source": _object("Where the call came from", [], address={"type": "string"}, user_agent={"type": "string"}),
        "request_id": _text("Correlates all events of one request"),
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "W3C trace id"},
        "phase": _one_of(Phase, "Before or after execution; absent where the event is the whole call"),
        "intent_id": {"type": "string", "pattern": _UUID7, "description": "Of outcomes: the event_id of the intent"},
        "deadline": {"type": "string", "pattern": _TIME, "description": "Of intents: when the outcome is due"},
        "unknown_fields": {
            "type": "string",
            "contentEncoding": "base64",
            "description": "What a newer writer said in fields unknown to this version: a protobuf Event",
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kubegate audit event",
        "type": "object",
        "properties": users_fields | added | optional,
        "required": [*users_fields, *added],
        "additionalProperties": True,
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201 - the module is a generator
