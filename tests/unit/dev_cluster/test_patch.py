"""The patch kinds do what their specifications say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dev_cluster import managed, patch
from services.dev_cluster.errors import ApiError
from services.dev_cluster.kinds import CONFIG_MAP

VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text("abc", max_size=2), VALUES, max_size=4)

# The examples of RFC 7386, appendix A.
MERGES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "change", "result"), MERGES)
def test_merge_patch_as_in_rfc_7386(target: Any, change: Any, result: Any) -> None:
    assert patch.merge(target, change) == result


@given(DOCUMENTS, DOCUMENTS)
def test_merging_twice_is_merging_once_and_leaves_the_target_alone(
    target: dict[str, Any], change: dict[str, Any]
) -> None:
    before = repr(target)
    once = patch.merge(target, change)
    assert patch.merge(once, change) == once
    assert repr(target) == before


def test_json_patch_operations() -> None:
    document = {"a": {"b": [1, 2]}, "x/y": 1}
    operations = [
        {"op": "test", "path": "/a/b/1", "value": 2},
        {"op": "add", "path": "/a/b/0", "value": 0},
        {"op": "add", "path": "/a/b/-", "value": 3},
        {"op": "replace", "path": "/x~1y", "value": 2},
        {"op": "copy", "from": "/a/b", "path": "/c"},
        {"op": "remove", "path": "/c/0"},
        {"op": "move", "from": "/x~1y", "path": "/d"},
    ]
    assert patch.json_patch(document, operations) == {"a": {"b": [0, 1, 2, 3]}, "c": [1, 2, 3], "d": 2}
    assert document == {"a": {"b": [1, 2]}, "x/y": 1}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "add", "path": "/list/-1", "value": 1},
        {"op": "fly", "path": "/a"},
        {"path": "/a"},
        "remove",
    ],
)
def test_json_patch_that_does_not_fit_is_refused_whole(operation: Any) -> None:
    with pytest.raises(ApiError) as refused:
        patch.json_patch({"a": 1, "list": []}, [{"op": "add", "path": "/b", "value": 1}, operation])
    assert refused.value.code == 422


POD = {"spec": {"containers": [{"name": "a", "image": "a:1", "env": [{"name": "K", "value": "1"}]}, {"name": "b"}]}}


def containers(change: list[dict[str, Any]], **more: Any) -> list[Any]:
    result = patch.strategic(POD, {"spec": {"containers": change} | more})
    found: list[Any] = result["spec"]["containers"]
    return found


def test_strategic_merge_knows_list_items_by_their_key() -> None:
    assert containers([{"name": "a", "image": "a:2"}])[0] == {
        "name": "a",
        "image": "a:2",
        "env": [{"name": "K", "value": "1"}],
    }
    assert [c["name"] for c in containers([{"name": "c"}])] == ["a", "b", "c"]
    assert [c["name"] for c in containers([{"name": "a", "$patch": "delete"}])] == ["b"]
    assert containers([{"$patch": "replace"}, {"name": "z"}]) == [{"name": "z"}]


def test_strategic_merge_directives() -> None:
    order = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}
    assert [c["name"] for c in containers([], **order)] == ["b", "a"]
    assert patch.strategic({"a": 1, "b": 2}, {"$retainKeys": ["b"], "b": 3}) == {"b": 3}
    assert patch.strategic({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}) == {"a": {"c": 2}}
    drop = {"$deleteFromPrimitiveList/finalizers": ["x"]}
    assert patch.strategic({"finalizers": ["x", "y"]}, drop) == {"finalizers": ["y"]}
    assert patch.strategic({"finalizers": ["x"]}, {"finalizers": ["y"]}) == {"finalizers": ["x", "y"]}


def test_strategic_merge_needs_the_merge_key() -> None:
    with pytest.raises(ApiError) as refused:
        containers([{"image": "nameless"}])
    assert refused.value.code == 400


@given(DOCUMENTS)
def test_field_ownership_survives_its_encoding(document: dict[str, Any]) -> None:
    paths = set(managed.flatten({"data": document} if document else {}))
    assert managed.decode(managed.encode(paths)) == paths


def applied(live: Any, data: dict[str, str], manager: str, *, force: bool = False) -> Any:
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}
    return managed.apply(CONFIG_MAP, live, wanted, manager, "2030-01-01T00:00:00Z", force=force)


def test_apply_removes_what_its_manager_no_longer_wants_and_nobody_else_owns() -> None:
    live = applied(None, {"mine": "1", "shared": "1"}, "one")
    live = applied(live, {"shared": "1"}, "two")
    assert applied(live, {}, "one")["data"] == {"shared": "1"}


def test_apply_conflicts_unless_forced() -> None:
    live = applied(None, {"k": "1"}, "one")
    with pytest.raises(ApiError) as refused:
        applied(live, {"k": "2"}, "two")
    assert refused.value.details["causes"][0]["field"] == ".data.k"
    taken = applied(live, {"k": "2"}, "two", force=True)
    assert taken["data"] == {"k": "2"}
    assert [entry["manager"] for entry in taken["metadata"]["managedFields"]] == ["two"]


def test_an_update_takes_ownership_of_what_it_changes() -> None:
    live = applied(None, {"k": "1", "kept": "1"}, "one")
    changed = live | {"data": {"k": "2", "kept": "1"}, "metadata": dict(live["metadata"])}
    managed.track_update(live, changed, "editor", "2030-01-01T00:00:00Z")
    with pytest.raises(ApiError, match=r'conflict with "editor": \.data\.k'):
        applied(changed, {"k": "1", "kept": "1"}, "one")
