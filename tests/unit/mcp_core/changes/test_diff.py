"""Previews name what changes and show no secret, old or new (R26, I8.2)."""

import json
from typing import Any

import pytest

from services.mcp_core.tools.diff import MAX_CHANGES, TOTAL_CHARACTERS, changed_paths, changes

CANARY = "cAnArY0fPr3vIew"


def shown(old: dict[str, Any], new: dict[str, Any], kind: str = "ConfigMap") -> list[tuple[str, Any, Any]]:
    found, _ = changes(old, new, kind)
    return [(one.path, one.before, one.after) for one in found]


@pytest.mark.req("I8.2")
def test_fields_are_named_as_people_write_them() -> None:
    old = {"metadata": {"labels": {"app.example.com/x": "1"}}, "spec": {"replicas": 1, "list": [1, 2]}}
    new = {"metadata": {"labels": {"app.example.com/x": "2"}}, "spec": {"list": [1, 3], "more": {"a": 1}}}
    assert shown(old, new) == [
        ("metadata.labels[app.example.com/x]", "1", "2"),
        ("spec.replicas", 1, None),
        ("spec.list", [1, 2], [1, 3]),
        ("spec.more", None, {"a": 1}),
    ]


@pytest.mark.req("I8.2")
def test_named_items_are_compared_with_their_like() -> None:
    def pod(*containers: tuple[str, str]) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": name, "image": image} for name, image in containers]}}

    assert shown(pod(("a", "1"), ("b", "1")), pod(("a", "1"), ("b", "2"))) == [("spec.containers[b].image", "1", "2")]
    assert shown(pod(("a", "1")), pod(("a", "1"), ("b", "2"))) == [
        ("spec.containers[b]", None, {"name": "b", "image": "2"})
    ]
    # Another order is a change, too.
    ((path, before, after),) = shown(pod(("a", "1"), ("b", "1")), pod(("b", "1"), ("a", "1")))
    assert (path, len(before), len(after)) == ("spec.containers", 2, 2)


@pytest.mark.req("I8.2")
def test_what_the_cluster_keeps_for_itself_is_no_change() -> None:
    old = {"metadata": {"resourceVersion": "1", "generation": 1, "managedFields": [1]}, "status": {"a": 1}}
    new = {"metadata": {"resourceVersion": "2", "generation": 2, "managedFields": [2]}, "status": {"a": 2}}
    assert shown(old, new) == []
    assert changed_paths(old, new) == []


@pytest.mark.req("I8.2", "R26")
@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("Secret", {"data": {"k": CANARY}}, {"data": {"k": f"{CANARY}2"}}),
        ("Secret", {}, {"data": {"k": CANARY}, "stringData": {"x": CANARY}}),
        ("Secret", {"data": {"k": CANARY}}, {}),
        ("ConfigMap", {"data": {"password": CANARY}}, {"data": {"password": f"{CANARY}2"}}),
        (
            "Pod",
            {"spec": {"containers": [{"name": "a", "env": [{"name": "API_TOKEN", "value": CANARY}]}]}},
            {"spec": {"containers": [{"name": "a", "env": [{"name": "API_TOKEN", "value": f"{CANARY}2"}]}]}},
        ),
        (
            "Pod",
            {"spec": {"containers": [{"name": "a", "command": ["x", "--token", CANARY]}]}},
            {"spec": {"containers": [{"name": "a", "command": ["x", "--token", f"{CANARY}2"]}]}},
        ),
        ("Widget", {"spec": {"token": {"a": CANARY}}}, {"spec": {"token": {"a": CANARY, "b": CANARY}}}),
        ("ConfigMap", {"data": {f"token={CANARY}": "1"}}, {"data": {f"token={CANARY}": "2"}}),
    ],
)
def test_a_changed_secret_is_a_change_and_is_not_shown(kind: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    found = shown(old, new, kind)
    assert found
    assert CANARY not in json.dumps(found)


@pytest.mark.req("I8.2")
def test_long_previews_end() -> None:
    found, more = changes({}, {"spec": {}, **{f"k{n}": n for n in range(MAX_CHANGES * 2)}}, "X")
    assert (len(found), more) == (MAX_CHANGES, True)
    found, more = changes({}, {f"k{n}": "word " * 2000 for n in range(50)}, "X")
    assert more
    assert len(json.dumps([one.after for one in found])) < TOTAL_CHARACTERS * 2
    found, more = changes({}, {"a": 1}, "X")
    assert not more


@pytest.mark.req("R10")
def test_what_is_new_or_goes_is_told_to_its_last_field() -> None:
    path = ("spec", "template", "metadata", "annotations", "x/y")
    new = {"spec": {"template": {"metadata": {"annotations": {"x/y": "z"}}}}}
    assert changed_paths({}, new) == changed_paths(new, {}) == [path]
