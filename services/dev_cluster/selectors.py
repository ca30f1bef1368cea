"""Label and field selectors: parsing and matching, no IO."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from services.dev_cluster.errors import bad_request
from services.dev_cluster.kinds import Kind, Object

Labels = Mapping[str, str]
Matcher = Callable[[Object], bool]

_KEY = r"[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<absent_key>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?:(?P<op>==|=|!=)\s*(?P<value>{_VALUE})|\s(?P<set_op>in|notin)\s*\((?P<values>[^()]*)\))?)"
    r"\s*(?:,|$)"
)


def _get(obj: Object, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _holds(labels: Labels, key: str, op: str, values: list[str]) -> bool:
    if op in ("in", "In"):
        return labels.get(key) in values
    if op in ("notin", "NotIn"):
        return labels.get(key) not in values
    if op == "Exists":
        return key in labels
    return key not in labels


def parse_labels(text: str) -> Callable[[Labels], bool]:
    """A predicate over labels for a selector as in `?labelSelector=`; 400 when it cannot be read."""
    requirements: list[tuple[str, str, list[str]]] = []
    position = 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None or match.end() == position:
            raise bad_request(f"unable to parse requirement: {text!r}")
        position = match.end()
        part = match.groupdict()
        if part["absent"]:
            requirements.append((part["absent_key"], "DoesNotExist", []))
        elif part["set_op"]:
            requirements.append((part["key"], part["set_op"], [v.strip() for v in part["values"].split(",")]))
        elif part["op"]:
            requirements.append((part["key"], "notin" if part["op"] == "!=" else "in", [part["value"]]))
        else:
            requirements.append((part["key"], "Exists", []))
    return lambda labels: all(_holds(labels, *requirement) for requirement in requirements)


def matches_selector(selector: Object | None, labels: Labels) -> bool:
    """Whether labels satisfy a `LabelSelector`; one that is absent selects nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    expressions = selector.get("matchExpressions") or []
    return all(_holds(labels, e["key"], e["operator"], e.get("values") or []) for e in expressions)


def _parse_fields(kind: Kind, text: str) -> list[tuple[str, bool, str]]:
    terms: list[tuple[str, bool, str]] = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if match is None:
            raise bad_request(f"invalid selector: {term!r}; can't understand it")
        path, op, value = match.groups()
        if path not in kind.selectable:
            raise bad_request(f'field label not supported: "{path}"')
        terms.append((path, op != "!=", value))
    return terms


def parse(kind: Kind, label_selector: str, field_selector: str) -> Matcher:
    """A predicate over objects of a kind for the two selectors of a request."""
    of_labels = parse_labels(label_selector)
    of_fields = _parse_fields(kind, field_selector)

    def matcher(obj: Object) -> bool:
        if any((_get(obj, path) == value) is not equal for path, equal, value in of_fields):
            return False
        return of_labels(obj["metadata"].get("labels") or {})

    return matcher


def name_in_fields(field_selector: str) -> str:
    """The name that a field selector pins down, for authorization by resource name."""
    match = re.search(r"(?:^|,)metadata\.name==?([^,]+)", field_selector)
    return match.group(1) if match else ""
