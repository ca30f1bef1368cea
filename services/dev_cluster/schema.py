"""What fields a kind has, taken at run time from the models of the installed `kubernetes` package.

Used to refuse or drop unknown fields, to check types and required fields, to read protobuf, and to publish OpenAPI.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from kubernetes import client

from services.dev_cluster import custom
from services.dev_cluster.clock import parse
from services.dev_cluster.errors import bad_request
from services.dev_cluster.kinds import CUSTOM, METRICS, SERVED, Kind, Object, served

_CONTAINER = re.compile(r"(List|Dict)\[(?:str, )?(.+)\]")
_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,), "bytes": (str,), "datetime": (str,), "int": (int,), "float": (int, float), "bool": (bool,)
}  # fmt: skip
_OPENAPI: dict[str, Object] = {
    "str": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "datetime": {"type": "string", "format": "date-time"},
    "int": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "double"},
    "bool": {"type": "boolean"},
    "object": {"x-kubernetes-preserve-unknown-fields": True},
}
# A quantity may be written as a number; the models call it a string.
QUANTITIES = frozenset({"limits", "requests", "hard", "capacity", "allocatable", "overhead", "sizeLimit", "divisor"})


@dataclass(frozen=True)
class Field:
    """One field of a model: its JSON name, its type as the models spell it, and what is said about it."""

    name: str
    type: str
    required: bool
    description: str

    @property
    def item_type(self) -> str:
        """The type of the items of a list or map; the type itself for all else."""
        match = _CONTAINER.fullmatch(self.type)
        return match.group(2) if match else self.type


@cache
def fields(model: str) -> dict[str, Field]:
    """The fields of a model by JSON name; empty for what is not a model."""
    cls = getattr(client, model, None)
    if cls is None or not hasattr(cls, "openapi_types"):
        return {}
    infos = {info.serialization_alias or name: info for name, info in cls.model_fields.items()}
    result = {}
    for attribute, name in cls.attribute_map.items():
        info = infos[name]
        result[name] = Field(name, cls.openapi_types[attribute], info.is_required(), info.description or "")
    return result


def decode(kind: Kind, obj: Object) -> tuple[Object, list[str]]:
    """The object without what the kind does not know, and the paths left out; 400 for a value of the wrong type."""
    unknown: list[str] = []
    try:
        if kind.custom:
            clean = custom.clean(kind, obj, unknown)
            if "metadata" in clean:
                clean["metadata"] = _clean("V1ObjectMeta", clean["metadata"], "metadata", unknown)
        else:
            clean = _clean(kind.model_name, obj, "", unknown)
    except TypeError as error:
        message = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {error}'
        raise bad_request(message) from error
    return dict(clean), unknown


def _clean(type_: str, value: Any, path: str, unknown: list[str]) -> Any:
    container = _CONTAINER.fullmatch(type_)
    if container:
        outer, inner = container.groups()
        if outer == "List":
            if not isinstance(value, list):
                raise TypeError(f"json: cannot unmarshal {_json_type(value)} into field {path} of type list")
            return [_clean(inner, item, f"{path}[{i}]", unknown) for i, item in enumerate(value)]
        if not isinstance(value, dict):
            raise TypeError(f"json: cannot unmarshal {_json_type(value)} into field {path} of type map")
        if path.rpartition(".")[2] in QUANTITIES:
            value = {key: _quantity(item) for key, item in value.items()}
        return {key: _clean(inner, item, f"{path}.{key}", unknown) for key, item in value.items() if item is not None}
    known = fields(type_)
    if known:
        if not isinstance(value, dict):
            raise TypeError(f"json: cannot unmarshal {_json_type(value)} into field {path or 'object'} of type {type_}")
        result = {}
        for key, item in value.items():
            where = f"{path}.{key}" if path else key
            if key not in known:
                unknown.append(where)
            elif item is not None:
                result[key] = _clean(known[key].type, _quantity(item) if key in QUANTITIES else item, where, unknown)
        return result
    allowed = _SCALARS.get(type_)
    if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and type_ != "bool")):
        raise TypeError(f"json: cannot unmarshal {_json_type(value)} into field {path} of type {type_}")
    if type_ == "datetime":
        try:
            parse(value)
        except ValueError as error:
            raise TypeError(f"{path}: {value!r} is not a time as in RFC 3339") from error
    return value


def _quantity(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object", type(None): "null"}
    return names.get(type(value), "value")


def missing(kind: Kind, obj: Object) -> list[str]:
    """The paths of required fields that are absent, status aside."""
    if kind.custom:
        return custom.missing(kind, obj)
    absent: list[str] = []
    for name, field in fields(kind.model_name).items():
        if name != "status":
            _missing(field, obj, name, absent)
    return absent


def _missing(field: Field, owner: Object, path: str, absent: list[str]) -> None:
    value = owner.get(field.name)
    if value is None:
        if field.required:
            absent.append(path)
        return
    if isinstance(value, dict) and field.type.startswith("Dict["):
        items = [(f"{path}[{key}]", item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        items = [(path, value)]
    for name, inner in fields(field.item_type).items():
        for where, item in items:
            if isinstance(item, dict):
                _missing(inner, item, f"{where}.{name}", absent)


def openapi_index() -> Object:
    """`/openapi/v3`: one document for each served group version."""
    paths = {
        _root(kind).lstrip("/"): {"serverRelativeURL": f"/openapi/v3{_root(kind)}"}
        for kind in served()
        if kind not in METRICS
    }
    return {"paths": paths}


def _root(kind: Kind) -> str:
    return f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"


@cache
def _document(root: str) -> bytes:
    kinds = [kind for kind in SERVED if _root(kind) == root]
    schemas: dict[str, Object] = {}
    paths: dict[str, Object] = {}
    for kind in kinds:
        _add_schema(kind.model_name, schemas)
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.name}
        schemas[_schema_name(kind.model_name)]["x-kubernetes-group-version-kind"] = [gvk]
        # kubectl asks by these parameters whether the server validates fields and runs dry.
        parameters = [{"name": n, "in": "query", "schema": {"type": "string"}} for n in ("dryRun", "fieldValidation")]
        operation = {"parameters": parameters, "x-kubernetes-group-version-kind": gvk, "responses": {}}
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        post = operation | {"x-kubernetes-action": "post"}
        paths[f"{root}{scope}/{kind.plural}"] = {"post": post}
        if "patch" in kind.verbs:
            patch = operation | {"x-kubernetes-action": "patch"}
            paths[f"{root}{scope}/{kind.plural}/{{name}}"] = {"patch": patch}
    info = {"title": "kubegate development cluster", "version": kinds[0].version}
    document = {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}
    return json.dumps(document).encode()


def openapi_document(root: str) -> bytes | None:
    """The OpenAPI v3 document of a group version as JSON; None when it is not served."""
    if any(_root(kind) == root for kind in SERVED if kind not in METRICS):
        return _document(root)
    own = [kind for kind in CUSTOM if _root(kind) == root]
    return _custom_document(own) if own else None


def _custom_document(kinds: list[Kind]) -> bytes:
    """As `_document`, from the definitions' own schemas; not kept, since they may change."""
    schemas: dict[str, Object] = {}
    paths: dict[str, Object] = {}
    for kind in kinds:
        gvk = {"group": kind.group, "version": kind.version, "kind": kind.name}
        name = ".".join([*reversed(kind.group.split(".")), kind.version, kind.name])
        schemas[name] = custom.schema_of(kind) | {"x-kubernetes-group-version-kind": [gvk]}
        parameters = [{"name": n, "in": "query", "schema": {"type": "string"}} for n in ("dryRun", "fieldValidation")]
        operation = {"parameters": parameters, "x-kubernetes-group-version-kind": gvk, "responses": {}}
        scope = "/namespaces/{namespace}" if kind.namespaced else ""
        collection = f"{_root(kind)}{scope}/{kind.plural}"
        paths[collection] = {"post": operation | {"x-kubernetes-action": "post"}}
        paths[f"{collection}/{{name}}"] = {"patch": operation | {"x-kubernetes-action": "patch"}}
    info = {"title": "kubegate development cluster", "version": kinds[0].version}
    return json.dumps({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}).encode()


def _schema_name(model: str) -> str:
    return f"io.k8s.{model}"


def _add_schema(model: str, schemas: dict[str, Object]) -> None:
    name = _schema_name(model)
    if name in schemas:
        return
    cls = getattr(client, model)
    description = (cls.__doc__ or "").strip().partition("\n")[0]
    schema: Object = {"type": "object", "description": description, "properties": {}}
    schemas[name] = schema
    for field in fields(model).values():
        schema["properties"][field.name] = _property(field.type, schemas) | {"description": field.description}
    required = [field.name for field in fields(model).values() if field.required]
    if required:
        schema["required"] = required


def _property(type_: str, schemas: dict[str, Object]) -> Object:
    container = _CONTAINER.fullmatch(type_)
    if container:
        inner = _property(container.group(2), schemas)
        if container.group(1) == "List":
            return {"type": "array", "items": inner}
        return {"type": "object", "additionalProperties": inner}
    if fields(type_):
        _add_schema(type_, schemas)
        return {"allOf": [{"$ref": f"#/components/schemas/{_schema_name(type_)}"}]}
    return dict(_OPENAPI.get(type_, {}))
