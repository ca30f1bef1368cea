"""Reads OpenAPI v3 schemas as `kubectl explain` does. Pure; follows only references that it is asked to follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_FIELDS = 120
DESCRIPTION = 300
"""Most fields, and most characters of a field's description, in one explanation."""

_REF = "#/components/schemas/"


def explain(schemas: Mapping[str, Any], group: str, version: str, kind: str, path: str) -> dict[str, Any] | None:
    """The field at a path of a kind with those below it; None where there is no such kind or field."""
    wanted = {"group": group, "version": version, "kind": kind}
    schema: Any = next(
        (
            one
            for one in schemas.values()
            if isinstance(one, dict) and wanted in one.get("x-kubernetes-group-version-kind", ())
        ),
        None,
    )
    if schema is None:
        return None
    own: Mapping[str, Any] = schema
    for step in filter(None, path.split(".")):
        inner = _body(schemas, schema).get("properties")
        own = inner.get(step) if isinstance(inner, dict) else None  # type: ignore[assignment]
        if not isinstance(own, dict):
            return None
        schema = own
    body = _body(schemas, schema)
    properties = body.get("properties") if isinstance(body.get("properties"), dict) else {}
    required = body.get("required") or ()
    fields = [
        {
            "name": name,
            "type": _type(schemas, field),
            "description": _described(schemas, field, DESCRIPTION),
            "required": name in required,
        }
        for name, field in sorted((properties or {}).items())
        if isinstance(field, dict)
    ]
    return {
        "type": _type(schemas, own),
        "description": _described(schemas, own, 2000),
        "fields": fields[:MAX_FIELDS],
        "truncated": len(fields) > MAX_FIELDS,
    }


def _resolved(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema behind a reference, also where it stands alone in `allOf`, as Kubernetes writes it."""
    for _ in range(8):
        parts = schema.get("allOf")
        if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
            schema = parts[0]
        ref = schema.get("$ref")
        if not isinstance(ref, str):
            return schema
        found = schemas.get(ref.removeprefix(_REF))
        schema = found if isinstance(found, dict) else {}
    return schema


def _body(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the objects in it: lists and maps are looked through."""
    schema = _resolved(schemas, schema)
    for _ in range(8):
        inner = schema.get("items") or schema.get("additionalProperties")
        if not isinstance(inner, dict) or "properties" in schema:
            return schema
        schema = _resolved(schemas, inner)
    return schema


def _type(schemas: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> str:
    found = _resolved(schemas, schema)
    inner = found.get("items")
    if isinstance(inner, dict) and depth < 4:
        return f"[]{_type(schemas, inner, depth + 1)}"
    more = found.get("additionalProperties")
    if isinstance(more, dict) and depth < 4:
        return f"map[string]{_type(schemas, more, depth + 1)}"
    return str(found.get("type") or ("integer or string" if found.get("x-kubernetes-int-or-string") else "object"))


def _described(schemas: Mapping[str, Any], schema: Mapping[str, Any], limit: int) -> str:
    text = str(schema.get("description") or _resolved(schemas, schema).get("description") or "")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
