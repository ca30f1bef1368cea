"""Structs as contracts: JSON Schemas from msgspec structs, and values checked against the structs.

A struct is the one source of a tool's schema, of its validation and of its defaults, so they cannot drift apart.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from services.common.errors import InvalidArgument

S = TypeVar("S", bound=msgspec.Struct)

MULTILINE = "manifest"
"""The one argument that may have lines: YAML, which `manifest.parse` looks at."""

_PATH = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)


def json_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema 2020-12 of a struct, without $ref, titles and the structs' docstrings."""
    schema = msgspec.json.schema(struct)
    inlined: dict[str, Any] = _inlined(schema, schema["$defs"])
    return inlined


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if node.get("type") == "object" and "properties" in node:
        properties = {name: _inlined(value, definitions) for name, value in node["properties"].items()}
        told = {"title", "description", "properties"} | (set() if node.get("required") else {"required"})
        rest = {key: value for key, value in node.items() if key not in told}
        return {**rest, "properties": properties}
    return {
        key: _inlined(value, definitions)
        for key, value in node.items()
        # A default of nothing tells a reader nothing, thirty tools long.
        if key != "title" and not (key == "default" and value in ("", False, []))
    }


def convert_arguments(arguments: Any, struct: type[S]) -> S:
    """The arguments as a struct, defaults filled in.

    Raises:
        InvalidArgument: naming the first argument that does not fit, and why; never its value.
    """
    try:
        converted = msgspec.convert(arguments, struct)
    except msgspec.ValidationError as error:
        raise InvalidArgument(_sentence(str(error), struct)) from error
    for attribute, name in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True):
        value = getattr(converted, attribute)
        texts = value if isinstance(value, list) else [value]
        # Python's `$` lets a trailing newline pass, JSON Schema's does not.
        if name != MULTILINE and any(isinstance(text, str) and not text.isprintable() for text in texts):
            raise InvalidArgument(f"Argument `{name}` must not have control characters.")
    return converted


def _sentence(message: str, struct: type[msgspec.Struct]) -> str:
    known = ", ".join(struct.__struct_encode_fields__) or "none"
    if field := _FIELD.match(message):
        name = field["field"][:64]
        if field["what"].startswith("missing"):
            return f"Argument `{name}` is required."
        return f"Unknown argument `{name}`; known: {known}."
    found = _PATH.match(message)
    if found is None or found["path"] is None:
        return f"The arguments must be a JSON object; known: {known}."
    problem = found["problem"].replace("Expected", "must be", 1).replace("`", "")
    if found["path"] == "idempotency_key":
        problem = "must be 8 to 128 letters, digits, '.', '_', ':' or '-'; a UUID will do"
    elif "matching regex '^[a-z0-9](" in problem:
        problem = "must be a Kubernetes name: lower-case letters, digits, '-' (RFC 1123), '.' only in names of objects"
    return f"Argument `{found['path'][:64]}` {problem}."
