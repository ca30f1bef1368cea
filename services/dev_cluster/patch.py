"""The patch kinds of the Kubernetes API: JSON merge, JSON patch, strategic merge. Pure functions."""

from __future__ import annotations

import copy
from typing import Any

from services.dev_cluster.errors import ApiError, bad_request
from services.dev_cluster.kinds import Object

# Lists of objects that are merged by a key. Everything that is not named here is replaced as a whole.
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "resourceClaims": ("name",),
    "secrets": ("name",),
    "taints": ("key",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
# Lists of plain values that are merged as sets.
SETS = frozenset({"finalizers"})
_PATCH = "$patch"


def list_keys(field: str, items: list[Any]) -> tuple[str, ...]:
    """The keys by which the items of a list field are told apart; none when the list is atomic."""
    if not all(isinstance(item, dict) for item in items):
        return ()
    if field == "ports":
        return ("containerPort",) if any("containerPort" in item for item in items) else ("port",)
    return MERGE_KEYS.get(field, ())


def patched(how: str, old: Object, wanted: Any) -> Object:
    """The object after a patch of the given kind: `json`, `merge` or `strategic`."""
    if how == "json":
        new = json_patch(old, wanted)
    elif not isinstance(wanted, dict):
        raise bad_request("a merge patch is an object")
    else:
        new = merge(old, wanted) if how == "merge" else strategic(old, wanted)
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        raise bad_request("the patch leaves no object")
    return dict(new)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(target: Any, patch: Any, field: str = "") -> Any:
    """Strategic merge: as `merge`, but keyed lists merge item by item and `$` directives are obeyed."""
    if isinstance(patch, list):
        return _strategic_list(target if isinstance(target, list) else [], patch, field)
    if not isinstance(patch, dict):
        return patch
    if patch.get(_PATCH) == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != _PATCH}
    if patch.get(_PATCH) == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key == "$retainKeys":
            result = {name: kept for name, kept in result.items() if name in value}
        elif key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name, []) if item not in value]
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            result.pop(key, None)
        else:
            result[key] = strategic(result.get(key), value, key)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.partition("/")[2]
            if isinstance(result.get(name), list):
                result[name] = _ordered(result[name], order, name)
    return result


def _strategic_list(target: list[Any], patch: list[Any], field: str) -> list[Any]:
    if field in SETS:
        return target + [item for item in patch if item not in target]
    keys = list_keys(field, target + patch)
    if not keys or any(item.get(_PATCH) == "replace" and len(item) == 1 for item in patch):
        return [copy.deepcopy(item) for item in patch if not (isinstance(item, dict) and _PATCH in item)]
    (key,) = keys
    result = list(target)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((i for i, old in enumerate(result) if old.get(key) == item[key]), None)
        if item.get(_PATCH) == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic({}, item))
        else:
            result[place] = strategic(result[place], item)
    return result


def _ordered(items: list[Any], order: list[Any], field: str) -> list[Any]:
    keys = list_keys(field, items)
    wanted = [item.get(keys[0]) if keys and isinstance(item, dict) else item for item in order]
    places = {value: place for place, value in enumerate(wanted)}
    identity = [item.get(keys[0]) if keys else item for item in items]
    known = [item for item, value in zip(items, identity, strict=True) if value in places]
    known.sort(key=lambda item: places[item.get(keys[0]) if keys else item])
    return known + [item for item, value in zip(items, identity, strict=True) if value not in places]


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902. A failed `test` or a path that is not there refuses the whole patch (422)."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    holder = [copy.deepcopy(document)]
    for operation in operations:
        try:
            _operate(holder, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            message = f"the server rejected our request due to an error in our request: {operation!r}"
            raise ApiError(422, "Invalid", message) from error
    return holder[0]


def _operate(holder: list[Any], operation: Object) -> None:
    op, path = operation["op"], _pointer(operation["path"])
    if op == "test":
        if _lookup(holder, path) != operation["value"]:
            raise ValueError("test failed")
    elif op == "remove":
        _remove(holder, path)
    elif op == "replace":
        _remove(holder, path)
        _add(holder, path, copy.deepcopy(operation["value"]))
    elif op == "add":
        _add(holder, path, copy.deepcopy(operation["value"]))
    elif op in ("move", "copy"):
        source = _pointer(operation["from"])
        value = copy.deepcopy(_lookup(holder, source))
        if op == "move":
            _remove(holder, source)
        _add(holder, path, value)
    else:
        raise ValueError(op)


def _pointer(text: str) -> list[str]:
    """A JSON pointer as steps from the holder list, whose only item is the document."""
    if text and not text.startswith("/"):
        raise ValueError(text)
    return ["0", *(step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:])]


def _index(step: str) -> int:
    if not step.isdecimal():
        raise IndexError(step)
    return int(step)


def _lookup(holder: Any, path: list[str]) -> Any:
    value = holder
    for step in path:
        value = value[_index(step)] if isinstance(value, list) else value[step]
    return value


def _remove(holder: Any, path: list[str]) -> None:
    parent = _lookup(holder, path[:-1])
    del parent[_index(path[-1]) if isinstance(parent, list) else path[-1]]


def _add(holder: Any, path: list[str], value: Any) -> None:
    parent, step = _lookup(holder, path[:-1]), path[-1]
    if isinstance(parent, list):
        place = len(parent) if step == "-" else _index(step)
        if place > len(parent):
            raise IndexError(step)
        parent.insert(place, value)
    else:
        parent[step] = value
