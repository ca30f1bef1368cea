"""Request bodies in, response bodies out: JSON, YAML, protobuf; and how a client wants lists to look."""

from __future__ import annotations

import json
from typing import Any

import yaml
from aiohttp import web

from services.dev_cluster import protobuf, schema
from services.dev_cluster.errors import bad_request, unsupported_media
from services.dev_cluster.kinds import Kind, Object

PATCH_TYPES = {
    "application/merge-patch+json": "merge",
    "application/json-patch+json": "json",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}
_OBJECT_TYPES = ("application/json", "application/yaml", protobuf.MEDIA_TYPE)


class YamlLoader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a timestamp is a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _RequestLoader(YamlLoader):
    """YAML from a caller: without aliases, which make a short text a huge object."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted here")
        return super().compose_node(parent, index)


def media_type(request: web.Request) -> str:
    """The bare media type of the body; JSON when nothing is said."""
    return (request.headers.get("Content-Type") or "application/json").partition(";")[0].strip().lower()


def _parse(raw: bytes, type_: str) -> Any:
    try:
        if type_.endswith("yaml"):
            return yaml.load(raw, _RequestLoader)  # noqa: S506 - a SafeLoader
        return json.loads(raw)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise bad_request(f"the body of the request cannot be read: {error}") from error


async def read_typed(request: web.Request, kind: Kind) -> Object:
    """The object in the body, with every field of the type that the kind says."""
    return schema.decode(kind, await read_object(request))[0]


async def read_object(request: web.Request) -> Any:
    """The object in the body; an empty body is an empty object."""
    type_, raw = media_type(request), await request.read()
    if not raw:
        return {}
    if type_ not in _OBJECT_TYPES:
        raise unsupported_media(type_, ", ".join(_OBJECT_TYPES))
    return protobuf.decode(raw) if type_ == protobuf.MEDIA_TYPE else _parse(raw, type_)


async def read_patch(request: web.Request) -> tuple[str, Any]:
    """The kind of patch and the patch."""
    type_ = media_type(request)
    if type_ not in PATCH_TYPES:
        raise unsupported_media(type_, ", ".join(PATCH_TYPES))
    return PATCH_TYPES[type_], _parse(await request.read(), type_)


def wants(request: web.Request) -> str:
    """`Table`, `PartialObjectMetadata` or nothing, from the first Accept entry that can be served."""
    for entry in request.headers.get("Accept", "").split(","):
        fields = {key.strip(): value for key, _, value in (part.partition("=") for part in entry.split(";"))}
        type_ = entry.partition(";")[0].strip()
        if type_ not in ("application/json", "*/*", ""):
            continue
        form = fields.get("as", "").removesuffix("List")
        if not form or (form in ("Table", "PartialObjectMetadata") and fields.get("g") == "meta.k8s.io"):
            return form
    return ""


def dump(obj: Any) -> bytes:
    """JSON as it goes over the wire."""
    return json.dumps(obj, separators=(",", ":")).encode()


def respond(obj: Any, status: int = 200, warnings: list[str] | None = None) -> web.Response:
    """A JSON response, with a `Warning` header for each warning."""
    response = web.Response(body=dump(obj), status=status, content_type="application/json")
    for warning in warnings or []:
        # As JSON, so that a field name from the client cannot end the header line.
        response.headers.add("Warning", f"299 - {json.dumps(warning)}")
    return response
