"""A manifest from a caller: read, bounded and fitted to the action that was decided, before anything is asked.

JSON object or YAML text. It may name no other kind, namespace or object than the decided one; what only the cluster
writes is left out, with a note; everything else is for the cluster to judge, strictly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from services.common.errors import InvalidArgument
from services.mcp_core.naming import is_path_segment
from services.mcp_core.ports import Kind
from services.mcp_core.redaction import redact

MAX_DEPTH = 64
"""Deepest nesting of a manifest."""

MAX_YAML_CHARACTERS = 256 * 1024
"""Longest manifest as YAML text, which costs far more to read than JSON; the body of a request bounds the others."""

SERVER_MANAGED = (
    *("uid", "creationTimestamp", "generation", "managedFields", "selfLink"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)
"""What only the cluster writes of `metadata`."""


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a timestamp is a text, a key stands once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise InvalidArgument(f"Argument `manifest`: line {key.start_mark.line + 1} repeats a key.")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse(given: Mapping[str, Any] | str) -> dict[str, Any]:
    """The manifest as an object: within its bounds, and of nothing but what JSON has.

    Raises:
        InvalidArgument: it is none; says what and where, never a value.
    """
    manifest = _from_yaml(given) if isinstance(given, str) else dict(given)
    check(manifest, "manifest")
    if not isinstance(manifest.get("metadata", {}), dict):
        raise InvalidArgument("Argument `manifest`: metadata must be an object.")
    return manifest


def name_of(manifest: Mapping[str, Any]) -> str:
    """The object's name.

    Raises:
        InvalidArgument: there is none, or it is no name.
    """
    metadata = manifest.get("metadata", {})
    name = metadata.get("name")
    if name is None and "generateName" in metadata:
        raise InvalidArgument("Argument `manifest`: give metadata.name instead of generateName; names are decided on.")
    if not isinstance(name, str) or not is_path_segment(name) or (name.lower() != name and ":" not in name):
        raise InvalidArgument(
            "Argument `manifest`: metadata.name must be a Kubernetes name: lower-case letters, digits, '-' and '.' "
            "(RFC 1123)."
        )
    return name


def fit(given: Mapping[str, Any], kind: Kind, namespace: str, *, new: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The manifest as it may be sent for the decided kind and namespace, and notes on what was left out.

    new: for a creation, which has no resourceVersion.

    Raises:
        InvalidArgument: it speaks of another kind or namespace; names both.
    """
    manifest = dict(given)
    resource = kind.resource
    version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    for field, decided in (("apiVersion", version), ("kind", kind.name)):
        said = manifest.setdefault(field, decided)
        if said != decided:
            raise InvalidArgument(
                f"Argument `manifest`: {field} is {str(said)[:64]!r}, but argument `kind` means {decided}."
            )
    metadata = dict(manifest.get("metadata", {}))
    said = metadata.get("namespace")
    if said not in (None, "") and said != namespace:
        raise InvalidArgument(
            f"Argument `manifest`: metadata.namespace is {str(said)[:64]!r}, but "
            + (f"`namespace` is {namespace}." if namespace else f"{kind.name} lies outside namespaces.")
        )
    metadata.pop("namespace", None)
    if namespace:
        metadata["namespace"] = namespace
    left_out = [f"metadata.{field}" for field in SERVER_MANAGED if metadata.pop(field, None) is not None]
    if new and metadata.pop("resourceVersion", None) is not None:
        left_out.append("metadata.resourceVersion")
    if manifest.pop("status", None) is not None:
        left_out.append("status")
    manifest["metadata"] = metadata
    return manifest, [f"Left out, the cluster writes it itself: {', '.join(left_out)}."] if left_out else []


def _from_yaml(text: str) -> dict[str, Any]:
    if len(text) > MAX_YAML_CHARACTERS:
        raise InvalidArgument(
            f"Argument `manifest` is longer than {MAX_YAML_CHARACTERS} characters of YAML; send a JSON object."
        )
    depth = documents = 0
    try:
        # Before anything is built: an alias makes a short text a huge object.
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise InvalidArgument(f"Argument `manifest`: line {line} has an anchor or alias.")
            documents += isinstance(event, yaml.DocumentStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InvalidArgument(f"Argument `manifest` is nested deeper than {MAX_DEPTH}.")
        if documents > 1:
            raise InvalidArgument("Argument `manifest` has several YAML documents; send one object a call.")
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InvalidArgument(f"Argument `manifest` is not valid YAML{where}.") from None
    if not isinstance(found, dict):
        raise InvalidArgument("Argument `manifest` must be an object.")
    return found


def check(value: dict[str, Any], argument: str) -> None:
    """Refuses what is nested too deeply, or is nothing that JSON has or a text may hold.

    Raises:
        InvalidArgument: says where.
    """
    left: list[tuple[Any, str, int]] = [(value, "", 1)]

    def refuse(path: str, what: str) -> InvalidArgument:
        return InvalidArgument(f"Argument `{argument}`: {redact(path)[:256] or 'it'} {what}.")

    while left:
        node, path, depth = left.pop()
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"Argument `{argument}` is nested deeper than {MAX_DEPTH}.")
        if isinstance(node, dict):
            for key, inner in node.items():
                if not isinstance(key, str):
                    raise refuse(path, "has a key that is no text; quote it")
                if _unfit(key):
                    raise refuse(path, "has a key with a character that no text may have")
                left.append((inner, f"{path}.{key[:64]}" if path else key[:64], depth + 1))
        elif isinstance(node, list):
            left += [(inner, f"{path}[{index}]", depth + 1) for index, inner in enumerate(node)]
        elif isinstance(node, str):
            if _unfit(node):
                raise refuse(path, "has a character that no text may have")
        elif isinstance(node, float) and not math.isfinite(node):
            raise refuse(path, "is no finite number")
        elif not isinstance(node, int | float | None):
            raise refuse(path, "is nothing that JSON has; quote it")


def _unfit(text: str) -> bool:
    """Whether a text holds NUL or half a surrogate pair."""
    return "\x00" in text or (not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text))
