"""Field ownership: `metadata.managedFields`, and server-side apply which is decided by it. Pure functions.

A path is a tuple of steps as FieldsV1 spells them: `f:name` a field, `k:{...}` a list item by key, `v:...` a set item.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import Kind, Object
from services.dev_cluster.patch import SETS, list_keys, strategic

Path = tuple[str, ...]

_UNOWNED_METADATA = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink",
     "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"}
)  # fmt: skip


def flatten(obj: Object) -> dict[Path, Any]:
    """The ownable leaves of an object, by path."""
    body = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    meta = {key: value for key, value in obj.get("metadata", {}).items() if key not in _UNOWNED_METADATA}
    if meta:
        body["metadata"] = meta
    leaves: dict[Path, Any] = {}
    for key, value in body.items():
        _flatten(value, key, (f"f:{key}",), leaves)
    return leaves


def _flatten(value: Any, field: str, path: Path, leaves: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _flatten(item, key, (*path, f"f:{key}"), leaves)
    elif isinstance(value, list) and field in SETS:
        for item in value:
            leaves[(*path, f"v:{json.dumps(item)}")] = item
    elif isinstance(value, list) and value and list_keys(field, value):
        for item in value:
            step = _item_step(field, item, value)
            leaves[(*path, step)] = None
            for key, inner in item.items():
                _flatten(inner, key, (*path, step, f"f:{key}"), leaves)
    else:
        leaves[path] = value


def _item_step(field: str, item: Object, items: list[Any]) -> str:
    keys = {key: item.get(key) for key in list_keys(field, items)}
    return "k:" + json.dumps(keys, separators=(",", ":"), sort_keys=True)


def encode(paths: set[Path]) -> Object:
    """FieldsV1 for a set of paths."""
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path[-1].startswith("k:"):
            node["."] = {}
    return tree


def decode(tree: Object, prefix: Path = ()) -> set[Path]:
    """Inverse of `encode`."""
    paths: set[Path] = set()
    for step, node in tree.items():
        if step == ".":
            paths.add(prefix)
        elif node:
            paths |= decode(node, (*prefix, step))
        else:
            paths.add((*prefix, step))
    return paths


def _entries(obj: Object | None) -> list[Object]:
    return list((obj or {}).get("metadata", {}).get("managedFields") or [])


def _is(entry: Object, manager: str, operation: str, subresource: str) -> bool:
    same = entry.get("manager") == manager and entry.get("operation") == operation
    return same and entry.get("subresource", "") == subresource


def _entry(manager: str, operation: str, api_version: str, now: str, paths: set[Path], subresource: str) -> Object:
    entry: Object = {"manager": manager, "operation": operation, "apiVersion": api_version, "time": now}
    entry |= {"fieldsType": "FieldsV1", "fieldsV1": encode(paths)}
    return entry | ({"subresource": subresource} if subresource else {})


def _without(entries: list[Object], paths: set[Path]) -> list[Object]:
    """The entries with ownership of some paths taken away; those that own nothing any more vanish."""
    kept = []
    for entry in entries:
        owned = decode(entry.get("fieldsV1") or {})
        if owned & paths:
            entry = entry | {"fieldsV1": encode(owned - paths)}
        if entry["fieldsV1"]:
            kept.append(entry)
    return kept


def track_update(old: Object | None, new: Object, manager: str, now: str, subresource: str = "") -> None:
    """Records in `new` that a manager changed what differs from `old`, on top of the ownership in `old`."""
    before, after = flatten(old or {}), flatten(new)
    absent = object()
    changed = {path for path, value in after.items() if before.get(path, absent) != value}
    gone = set(before) - set(after)
    entries = _entries(old)
    mine = next((entry for entry in entries if _is(entry, manager, "Update", subresource)), None)
    entries = _without(entries, changed | gone)
    if changed:
        owned = decode(mine["fieldsV1"]) & set(after) if mine else set()
        entries = [entry for entry in entries if not _is(entry, manager, "Update", subresource)]
        entries.append(_entry(manager, "Update", new["apiVersion"], now, owned | changed, subresource))
    if entries:
        new["metadata"]["managedFields"] = entries
    else:
        new["metadata"].pop("managedFields", None)


def apply(kind: Kind, live: Object | None, wanted: Object, manager: str, now: str, *, force: bool) -> Object:
    """Server-side apply: the live object with the manager's wishes; 409 where another manager wants otherwise."""
    wanted = copy.deepcopy(wanted)
    wanted["metadata"].pop("managedFields", None)
    wishes = flatten(wanted)
    entries = _entries(live)
    mine = next((entry for entry in entries if _is(entry, manager, "Apply", "")), None)
    others = [entry for entry in entries if entry is not mine]
    current = flatten(live or {})
    contested: dict[Path, str] = {}
    for entry in others:
        for path in decode(entry.get("fieldsV1") or {}) & set(wishes):
            if current.get(path) != wishes[path]:
                contested[path] = str(entry["manager"])
    if contested and not force:
        raise _conflicts(contested)
    others = _without(others, set(contested))
    result: Object = strategic(copy.deepcopy(live or {}), wanted)
    had = decode(mine["fieldsV1"]) if mine else set()
    kept = set(wishes).union(*(decode(entry["fieldsV1"]) for entry in others))
    for path in sorted(had - kept):
        _prune(result, path)
    paths = set(wishes)
    if mine is None or decode(mine["fieldsV1"]) != paths:
        mine = _entry(manager, "Apply", kind.api_version, now, paths, "")
    result["metadata"]["managedFields"] = [*others, mine]
    return result


def _conflicts(contested: dict[Path, str]) -> ApiError:
    causes = []
    for path, manager in sorted(contested.items()):
        field = "".join(f".{step[2:]}" if step.startswith("f:") else f"[{step[2:]}]" for step in path)
        message = f'conflict with "{manager}"'
        causes.append({"reason": "FieldManagerConflict", "message": message, "field": field})
    text = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
    noun = "conflict" if len(causes) == 1 else "conflicts"
    message = f"Apply failed with {len(causes)} {noun}: {text}"
    return ApiError(409, "Conflict", message, {"causes": causes})


def _prune(obj: Any, path: Path) -> None:
    parents: list[tuple[Any, Any]] = []
    value = obj
    for step in path:
        place = _find(value, step)
        if place is None:
            return
        parents.append((value, place))
        value = value[place]
    for depth, (parent, place) in enumerate(reversed(parents)):
        if depth and parent[place]:
            return
        del parent[place]


def _find(value: Any, step: str) -> Any:
    if step.startswith("f:"):
        return step[2:] if isinstance(value, dict) and step[2:] in value else None
    wanted = json.loads(step[2:])
    for place, item in enumerate(value if isinstance(value, list) else []):
        same = item == wanted if step.startswith("v:") else all(item.get(k) == v for k, v in wanted.items())
        if same:
            return place
    return None
