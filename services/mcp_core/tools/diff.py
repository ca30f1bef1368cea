"""What a change does to an object, field by field, fit to be shown: no value of a secret, neither old nor new (R26).

The values are compared as they are, so that a changed password is a change; what is shown of them is taken from the
redacted objects, so that nobody reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from services.mcp_core.redaction import MARK, redact
from services.mcp_core.redaction_objects import LAST_APPLIED, redact_object
from services.mcp_core.tools.base import Change

MAX_CHANGES = 100
"""Most fields in an answer."""

VALUE_CHARACTERS = 2_000
"""Longest value in an answer, as JSON; a longer one is cut."""

TOTAL_CHARACTERS = 16_000
"""All values of an answer together."""

Steps = tuple[str, ...]

_ABSENT: Any = object()

# What the cluster keeps by itself and nobody asks for.
_OWN_METADATA = frozenset(
    {
        *("managedFields", "generation", "resourceVersion", "uid", "creationTimestamp", "selfLink"),
        *("deletionGracePeriodSeconds", "deletionTimestamp", "name", "namespace"),
    }
)
_OWN_ANNOTATIONS = frozenset({LAST_APPLIED, "deployment.kubernetes.io/revision"})


def changed_paths(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Steps]:
    """The innermost fields that differ, as steps; list items are told apart by `name` where all have one."""
    return [steps for steps, *_ in _compare(_kept(old), _kept(new), whole=False)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], kind: str) -> tuple[list[Change], bool]:
    """The fields that differ with what they were and become, redacted; and whether there are more than are shown."""
    before, after = _kept(old), _kept(new)
    shown_before, shown_after = redact_object(before, kind), redact_object(after, kind)
    found: list[Change] = []
    left = TOTAL_CHARACTERS
    for steps, had, has in _compare(before, after):
        if len(found) == MAX_CHANGES or left <= 0:
            return found, True
        was = _shown(shown_before, steps, had)
        becomes = _shown(shown_after, steps, has)
        left -= len(msgspec.json.encode((was, becomes)))
        found.append(Change(_text(steps), was, becomes))
    return found, False


def fingerprint(old: Mapping[str, Any], new: Mapping[str, Any]) -> bytes:
    """Digest of the differences as they are, not as they are shown: two changes of a secret to other values differ."""
    found = [
        (steps, had is _ABSENT or had, has is _ABSENT or has, had is _ABSENT, has is _ABSENT)
        for steps, had, has in _compare(_kept(old), _kept(new))
    ]
    return sha256(msgspec.json.encode(found)).digest()


def _kept(obj: Mapping[str, Any]) -> dict[str, Any]:
    """An object without its status and what the cluster keeps for itself."""
    kept = {key: value for key, value in obj.items() if key not in ("status", "apiVersion", "kind")}
    metadata = kept.get("metadata")
    if isinstance(metadata, Mapping):
        metadata = {key: value for key, value in metadata.items() if key not in _OWN_METADATA}
        annotations = metadata.get("annotations")
        if isinstance(annotations, Mapping):
            rest = {key: value for key, value in annotations.items() if key not in _OWN_ANNOTATIONS}
            metadata |= {"annotations": rest}
            if not rest:
                del metadata["annotations"]
        kept["metadata"] = metadata
        if not metadata:
            del kept["metadata"]
    return kept


def _compare(old: Any, new: Any, steps: Steps = (), *, whole: bool = True) -> Iterator[tuple[Steps, Any, Any]]:
    """The differences. whole: what is new or goes is one difference, however much lies within it."""
    if not whole or steps in ((), ("metadata",)):
        old, new = _opened(old, new), _opened(new, old)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _compare(old.get(key, _ABSENT), new.get(key, _ABSENT), (*steps, key), whole=whole)
        return
    if isinstance(old, list) and isinstance(new, list):
        before, after = _by_name(old), _by_name(new)
        if (
            before is not None
            and after is not None
            and [n for n in before if n in after] == [n for n in after if n in before]
        ):
            for name in dict.fromkeys((*before, *after)):
                yield from _compare(
                    before.get(name, _ABSENT), after.get(name, _ABSENT), (*steps, f"[{name}]"), whole=whole
                )
            return
    if old is _ABSENT or new is _ABSENT or type(old) is not type(new) or old != new:
        yield steps, old, new


def _opened(value: Any, other: Any) -> Any:
    """Nothing beside a mapping counts as an empty one, so that the mapping's fields are told one by one."""
    return {} if value is _ABSENT and isinstance(other, Mapping) and other else value


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """The items by their names; None where one has none or two share one."""
    named = {item["name"]: item for item in items if isinstance(item, Mapping) and isinstance(item.get("name"), str)}
    return named if len(named) == len(items) else None


def _shown(redacted: Any, steps: Steps, value: Any) -> Any:
    """What may be shown of a value, from the redacted twin of its object."""
    if value is _ABSENT:
        return None
    node = redacted
    for step in steps:
        if isinstance(node, list) and step[:1] == "[":
            node = (_by_name(node) or {}).get(step[1:-1], _ABSENT)
        else:
            node = node.get(step, _ABSENT) if isinstance(node, Mapping) else _ABSENT
        if node is _ABSENT:
            # Its name was redacted, or the whole stands for its parts.
            return MARK
    text = msgspec.json.encode(node)
    return node if len(text) <= VALUE_CHARACTERS else f"{text.decode()[:VALUE_CHARACTERS]}…"


def _text(steps: Steps) -> str:
    """A path as a person writes it: spec.template.spec.containers[web].image."""
    text = ""
    for step in steps:
        shown = redact(step)
        if shown[:1] == "[":
            text += shown
        elif "." in shown or "/" in shown:
            text += f"[{shown}]"
        else:
            text += f".{shown}" if text else shown
    return text[:512]
