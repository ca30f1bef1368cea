"""Custom kinds: what a CustomResourceDefinition adds to the served kinds, its schema and its columns.

A process serves one cluster, so the custom kinds are a part of the one kind table. Of several versions of a
definition only the stored one is served.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.dev_cluster.kinds import BY_KIND, BY_RESOURCE, CRD, CUSTOM, Kind, Object
from services.dev_cluster.store import Change

_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\['([^']+)'\]")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True)
class Column:
    """A printer column: its heading, the path of its value, whether it is one of the wide output."""

    name: str
    path: str
    type: str
    wide: bool


def kind_of(definition: Object) -> Kind:
    """The kind that a definition defines."""
    spec = definition["spec"]
    names, version = spec["names"], _version(definition)
    status = ("status",) if "status" in (version.get("subresources") or {}) else ()
    return Kind(
        spec["group"],
        version["name"],
        names["kind"],
        names["plural"],
        namespaced=spec["scope"] == "Namespaced",
        short=tuple(names.get("shortNames") or ()),
        subresources=status,
        custom=True,
    )


def _version(definition: Object) -> Object:
    versions: list[Object] = definition["spec"]["versions"]
    return next((one for one in versions if one.get("storage")), versions[0])


def follower(drop: Callable[[Kind], None]) -> Callable[[Change], None]:
    """A listener of the store that keeps the kind table in line; `drop` removes the objects of a kind."""

    def follow(change: Change) -> None:
        if change.kind is not CRD:
            return
        if change.old is not None:
            gone = kind_of(change.old)
            if change.type == "DELETED" or gone != kind_of(change.obj):
                drop(gone)
                CUSTOM.pop(gone, None)
                BY_RESOURCE.pop((gone.group, gone.version, gone.plural), None)
                BY_KIND.pop((gone.api_version, gone.name), None)
        if change.type != "DELETED":
            kind = kind_of(change.obj)
            CUSTOM[kind] = change.obj
            BY_RESOURCE[(kind.group, kind.version, kind.plural)] = kind
            BY_KIND[(kind.api_version, kind.name)] = kind

    return follow


def established(definition: Object, now: str) -> Object:
    """The status of a definition that is served."""
    conditions = [
        {"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        for type_, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    names = definition["spec"]["names"]
    return {"conditions": conditions, "acceptedNames": names, "storedVersions": [_version(definition)["name"]]}


def schema_of(kind: Kind) -> Object:
    """The OpenAPI v3 schema of a custom kind."""
    schema: Object = (_version(CUSTOM[kind]).get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    return schema


def columns_of(kind: Kind) -> list[Column]:
    """The printer columns of a custom kind, the name and, if none is defined, the age included."""
    given = _version(CUSTOM[kind]).get("additionalPrinterColumns") or []
    columns = [Column(one["name"], one["jsonPath"], one["type"], one.get("priority", 0) > 0) for one in given]
    default = [Column("Age", ".metadata.creationTimestamp", "date", False)]
    return [Column("Name", ".metadata.name", "string", False), *(columns or default)]


def at(obj: Object, path: str) -> Any:
    """The value at a simple JSONPath; None where there is none."""
    value: Any = obj
    for name, index, quoted in _STEP.findall(path):
        if index and isinstance(value, list):
            value = value[int(index)] if int(index) < len(value) else None
        else:
            value = value.get(name or quoted) if isinstance(value, dict) else None
    return value


def clean(kind: Kind, obj: Object, unknown: list[str]) -> Object:
    """The object without what its schema does not know; TypeError for a value of the wrong type."""
    kept: Object = {key: obj[key] for key in ("apiVersion", "kind", "metadata") if key in obj}
    rest = {key: value for key, value in obj.items() if key not in kept}
    schema = {**schema_of(kind)}
    schema["properties"] = {k: v for k, v in (schema.get("properties") or {}).items() if k not in kept}
    return kept | dict(_clean(schema, rest, "", unknown))


def _clean(schema: Object, value: Any, path: str, unknown: list[str]) -> Any:
    type_ = schema.get("type", "")
    if value is None or schema.get("x-kubernetes-int-or-string"):
        return value
    allowed = _TYPES.get(type_)
    if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and type_ != "boolean")):
        raise TypeError(f"{path or 'object'}: must be of type {type_}")
    if "enum" in schema and value not in schema["enum"]:
        raise TypeError(f"{path}: must be one of {', '.join(map(str, schema['enum']))}")
    if isinstance(value, list):
        return [_clean(schema.get("items") or {}, item, f"{path}[{i}]", unknown) for i, item in enumerate(value)]
    if not isinstance(value, dict) or not type_:
        return value
    known = schema.get("properties") or {}
    more = schema.get("additionalProperties")
    keep = schema.get("x-kubernetes-preserve-unknown-fields") or more is True
    result = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if key in known or isinstance(more, dict):
            result[key] = _clean(known.get(key) or more or {}, item, where, unknown)
        elif keep:
            result[key] = item
        else:
            unknown.append(where)
    return result


def missing(kind: Kind, obj: Object) -> list[str]:
    """The paths of required fields that are absent."""
    absent: list[str] = []
    _missing(schema_of(kind), obj, "", absent)
    return absent


def _missing(schema: Object, value: Any, path: str, absent: list[str]) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _missing(schema.get("items") or {}, item, f"{path}[{index}]", absent)
    if not isinstance(value, dict):
        return
    absent += [f"{path}.{name}".lstrip(".") for name in schema.get("required") or () if value.get(name) is None]
    for name, inner in (schema.get("properties") or {}).items():
        if name in value:
            _missing(inner, value[name], f"{path}.{name}".lstrip("."), absent)
